package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// requestResult is what `sennit ca request` made.
type requestResult struct {
	Request     string   `json:"request"`
	Fingerprint string   `json:"fingerprint"`
	Awaits      []string `json:"awaits,omitempty"` // fingerprints of the roots that are to sign it, where another is to follow
}

// askedRoot is what a controller is to ask: nothing but an intermediate, or the root in a file to follow, or one of its own, or
// another signing key.
func askedRoot(file string, online, signing bool) (report.RootRequest, error) {
	if file == "" {
		return report.RootRequest{Online: online, Signing: signing}, nil
	}
	data, err := readSmall(file)
	if err != nil {
		return report.RootRequest{}, err
	}
	root, err := ca.ParseRoot(data)
	if err != nil {
		return report.RootRequest{}, fmt.Errorf("%s: %w", file, err)
	}
	return report.RootRequest{NextRoot: string(ca.RootPEM(root))}, nil
}

// makeRequest asks the authority in a state directory, or the running controller. awaits are the roots that are to sign it,
// where another is to follow.
func makeRequest(cmd *cobra.Command, conn *connection, cfg *authorityFlags, root string, of report.RootRequest) (file []byte, awaits []string, err error) {
	if cfg.stateDir == "" {
		c, err := conn.open(cmd)
		if err != nil {
			return nil, nil, err
		}
		if file, err = c.RootRequest(cmd.Context(), of); err != nil {
			return nil, nil, err
		}
		a, err := c.Authority(cmd.Context())
		if err == nil && a.Next != nil {
			awaits = a.Next.Awaits
		}
		return file, awaits, err
	}
	err = cfg.with(root, func(a *ca.Authority) error {
		switch {
		case of.Signing:
			file, err = a.RequestSigning()
		case of.Online:
			file, err = a.RequestSuccessor(nil)
		case of.NextRoot != "":
			next, parseErr := ca.ParseRoot([]byte(of.NextRoot))
			if parseErr != nil {
				return parseErr
			}
			file, err = a.RequestSuccessor(next)
		default:
			var outside []*x509.Certificate
			for _, text := range of.OutsideRoots {
				roots, parseErr := upstreamca.Certificates(text)
				if parseErr != nil {
					return parseErr
				}
				outside = append(outside, roots...)
			}
			file, err = a.Request(outside...)
		}
		_, awaits = a.Awaited()
		return err
	})
	return file, awaits, err
}

// writeRequest makes the file of a request, and says who is to sign it.
func writeRequest(cmd *cobra.Command, out *format, to string, file []byte, awaits []string) error {
	request, err := ca.ParseRequest(file)
	if err != nil {
		return err
	}
	if err := writeNew(to, file, 0o644); err != nil {
		return err
	}
	if out.structured() {
		return out.write(cmd.OutOrStdout(), requestResult{Request: to, Fingerprint: request.Fingerprint, Awaits: awaits})
	}
	return showRequest(cmd.OutOrStdout(), to, request, awaits)
}

// showRequest says who is to sign a request, and how.
func showRequest(w io.Writer, to string, request *ca.Request, awaits []string) error {
	sign := fmt.Sprintf("sennit ca sign --request %s --fingerprint %s", filepath.Base(to), request.Fingerprint)
	root, next, old := request.Roots()
	outside, err := request.OutsideRoots()
	if err != nil {
		return err
	}
	for _, one := range outside {
		fmt.Fprintf(w, "%s: for root %s (%s) of an authority outside to be believed\n", to, ca.RootFingerprint(one), one.Subject)
		sign += " --outside-root FILE"
	}
	if next == "" {
		if old != "" {
			sign += " --old-root " + old
		}
		if key, old := request.SigningKeys(); old != "" {
			fmt.Fprintf(w, "%s: for signing key %s to follow on %s\n", to, key, old)
		}
		_, err := fmt.Fprintf(w, "%s: carry it to the root, and sign it with `%s`\n", to, sign)
		return err
	}
	fmt.Fprintf(w, "%s: for root %s to follow on %s\n", to, next, root)
	if slices.Contains(awaits, root) {
		fmt.Fprintf(w, "carry it to root %s, and sign it with `%s --next-root %s`\n", root, sign, next)
	}
	if slices.Contains(awaits, next) {
		fmt.Fprintf(w, "carry it to root %s, and sign it with `%s --old-root %s`\n", next, sign, root)
	}
	return nil
}

// readOutsideRoots reads the certificates of roots of authorities outside.
func readOutsideRoots(files []string) (roots []*x509.Certificate, err error) {
	for _, file := range files {
		data, err := readSmall(file)
		if err != nil {
			return nil, err
		}
		some, err := upstreamca.Certificates(string(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		roots = append(roots, some...)
	}
	return roots, nil
}

// agree puts into a request the other root that an operator means, who signs it.
func agree(root *ca.OfflineRoot, request *ca.Request, next, old string) error {
	other, succeeds, err := root.Other(request)
	if err != nil {
		return err
	}
	named, flag, what := old, "--old-root", "this root follows on root %s, which stays trusted beside it for a while"
	if succeeds {
		named, flag, what = next, "--next-root", "root %s is to follow on this one, and nobody who believes this one has a choice then"
	}
	switch {
	case other == nil && (next != "" || old != ""):
		return errors.New("the request is about no other root: sign it without --next-root and --old-root")
	case other == nil:
		return nil
	case named == "":
		return fmt.Errorf(what+": if that is the one that you mean, name it with %s", ca.RootFingerprint(other), flag)
	}
	if raw, err := hex.DecodeString(named); err == nil && len(raw) == 16 {
		if named != ca.RootFingerprint(other) {
			return fmt.Errorf(what+": you named %s", ca.RootFingerprint(other), named)
		}
		request.Agreed = other
		return nil
	}
	data, err := readSmall(named)
	if err != nil {
		return err
	}
	if request.Agreed, err = ca.ParseRoot(data); err != nil {
		return fmt.Errorf("%s: %w", named, err)
	}
	if !request.Agreed.Equal(other) {
		return fmt.Errorf(what+": %s holds another, %s", ca.RootFingerprint(other), named, ca.RootFingerprint(request.Agreed))
	}
	return nil
}

// afterAnswer says what follows on the answer of a root.
func afterAnswer(ctx context.Context, c *client.Client) (string, error) {
	a, err := c.Authority(ctx)
	switch {
	case err != nil:
		return "", err
	case a.Next != nil:
		return awaited(a.Next), nil
	case a.Rotation != nil && a.Rotation.Phase == report.Announced:
		return fmt.Sprintf("the %s is being rotated, from %s to %s: `sennit ca status` shows how far it is", a.Rotation.Of, a.Rotation.From, a.Rotation.To), nil
	}
	return "", nil
}

func awaited(next *report.NextRoot) string {
	return fmt.Sprintf("root %s is to follow when root %s has signed (`sennit ca cancel` takes it back)", next.Key, listed(next.Awaits))
}
