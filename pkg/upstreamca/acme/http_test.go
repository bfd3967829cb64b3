package acme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// TestAsked: while an order is open the token is shown at its path and nothing elsewhere, to so many at once, and to nobody afterwards.
func TestAsked(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ports, err := launch.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	a := &Authority{cfg: Config{HTTP: &HTTP{Name: "127.0.0.1", Listen: address}}}
	client := &acme.Client{Key: key}
	end, err := a.answerHTTP(client, &acme.Challenge{Token: "dG9rZW4"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	want, err := client.HTTP01ChallengeResponse("dG9rZW4")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string) (status int, body string, err error) {
		response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + address + path)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return response.StatusCode, string(text), err
	}
	const path = "/.well-known/acme-challenge/dG9rZW4"
	if status, body, err := ask(path); err != nil || status != http.StatusOK || body != want {
		t.Errorf("%d %q, %v", status, body, err)
	}
	if status, body, err := ask(path + "x"); err != nil || status != http.StatusNotFound || body == want {
		t.Errorf("another path: %d %q, %v", status, body, err)
	}

	var held []net.Conn
	for range maxAsking {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	more, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer more.Close()
	if err := more.SetReadDeadline(time.Now().Add(answerTime / 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := more.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more than %d: %v", maxAsking, err)
	}
	if _, err := io.WriteString(held[0], "GET "+path+" HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(held[0]); err != nil || !strings.HasSuffix(string(answer), want) {
		t.Errorf("the first of them: %q, %v", answer, err)
	}
	for deadline := time.Now().Add(answerTime / 2); ; { // one has gone
		_, body, err := ask(path)
		if err == nil && body == want {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q, %v", body, err)
		}
	}
	end()
	if _, _, err := ask(path); err == nil {
		t.Error("it is still answered")
	}
}
