package tpmtest

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// A Kind is how a maker left its TPM.
type Kind int

// Kinds of TPMs.
const (
	Bare Kind = iota // without a certificate of an endorsement key
	RSA              // with one of RSA-2048
	P256             // with one of P-256
)

// An Emulator is a TPM of its own.
type Emulator struct {
	Socket    string              // what tpm.New takes
	Authority []*x509.Certificate // of who made it; nil: Bare
}

// Start runs an emulator until the test ends. Where swtpm is not installed, the test is skipped.
func Start(t testing.TB, kind Kind) *Emulator {
	t.Helper()
	program, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("swtpm, the emulator of a TPM, is not installed: apt-get install swtpm")
	}
	dir, err := os.MkdirTemp("", "tpm") //nolint:usetesting // the names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	e := &Emulator{Socket: filepath.Join(dir, "tpm")}
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+e.Socket,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "ctrl"), "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	for {
		if _, err := os.Stat(e.Socket); err == nil {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the emulator does not start")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if kind != Bare {
		e.certify(t, kind)
	}
	return e
}

// certify does what the maker of a TPM does: it leaves a certificate of the endorsement key in it.
func (e *Emulator) certify(t testing.TB, kind Kind) {
	t.Helper()
	conn, err := linuxudstpm.Open(e.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	template, index := tpm2.RSAEKTemplate, tpm2.TPMHandle(0x01c00002)
	if kind == P256 {
		template, index = tpm2.ECCEKTemplate, 0x01c0000a
	}
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: made.ObjectHandle}).Execute(conn); err != nil {
		t.Fatal(err)
	}
	public, err := made.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	maker := NewMaker(t)
	e.Authority = []*x509.Certificate{maker.Certificate}
	leave(t, conn, index, append(maker.Certify(t, key), make([]byte, 32)...)) // with filling behind it, as makers leave
}

// leave writes what stays in a TPM.
func leave(t testing.TB, conn transport.TPM, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	public := tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: tpm2.TPMANV{PPWrite: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, PlatformCreate: true, NT: tpm2.TPMNTOrdinary},
	}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHPlatform, PublicInfo: tpm2.New2B(public)}).Execute(conn); err != nil {
		t.Fatal(err)
	}
	about, err := tpm2.NVReadPublic{NVIndex: index}.Execute(conn)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(data); at += 512 {
		_, err := tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform, NVIndex: tpm2.NamedHandle{Handle: index, Name: about.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: data[at:min(at+512, len(data))]}, Offset: uint16(at),
		}.Execute(conn)
		if err != nil {
			t.Fatal(err)
		}
	}
}
