package attest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// MetadataAddress is that of every cloud's metadata service.
const MetadataAddress = "http://169.254.169.254"

// Ask gets evidence for a challenge from the metadata service of the instance that this program runs on. The service is
// at address, usually MetadataAddress; client must not use a proxy, which would speak for another instance.
func Ask(ctx context.Context, client *http.Client, address string, provider Provider, challenge Challenge) ([]byte, error) {
	evidence, err := ask(ctx, client, address, provider, challenge)
	if err != nil {
		return nil, fmt.Errorf("ask the metadata service of %s for evidence: %w", provider, err)
	}
	return evidence, nil
}

func ask(ctx context.Context, client *http.Client, address string, provider Provider, challenge Challenge) ([]byte, error) {
	switch provider {
	case Amazon:
		// A session first (IMDSv2): a request that was forged through a program of the host cannot make one.
		session, err := metadata(ctx, client, http.MethodPut, address+"/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
		if err != nil {
			return nil, err
		}
		return metadata(ctx, client, http.MethodGet, address+"/latest/dynamic/instance-identity/rsa2048", "X-aws-ec2-metadata-token", string(session))
	case Google:
		query := url.Values{"audience": {challenge.audience()}, "format": {"full"}}
		return metadata(ctx, client, http.MethodGet, address+"/computeMetadata/v1/instance/service-accounts/default/identity?"+query.Encode(), "Metadata-Flavor", "Google")
	case Azure:
		query := url.Values{"api-version": {"2021-02-01"}, "nonce": {challenge.nonce()}}
		return metadata(ctx, client, http.MethodGet, address+"/metadata/attested/document?"+query.Encode(), "Metadata", "true")
	}
	return nil, fmt.Errorf("no cloud is called %q", provider)
}

func metadata(ctx context.Context, client *http.Client, method, address, field, value string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(field, value)
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s", method, request.URL.Path, response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxEvidence+1))
	if err == nil && len(body) > MaxEvidence {
		err = fmt.Errorf("%s: the answer has more than %d bytes", request.URL.Path, MaxEvidence)
	}
	return body, err
}
