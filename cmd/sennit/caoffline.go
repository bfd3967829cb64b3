package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// maxCAFile bounds what is read of a file that was carried between the root and a controller.
const maxCAFile = 256 << 10

func caInitCommand() *cobra.Command {
	var offline bool
	var cluster, trustDomain, passphrase, keyFile, certificate string
	cmd := &cobra.Command{
		Use: "init --offline-root", Short: "Make a root whose key no controller ever has",
		Long: `Init makes the root of a new cluster on a host of your choice, best one without a network. Its key is written to a file,
sealed under a passphrase; controllers are given its certificate alone. Without this command a controller makes a root of its
own when it first starts.`,
		Example: `  sennit ca init --offline-root --cluster sennit --trust-domain sennit.local --passphrase-file -`,
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case !offline:
			return misused(cmd, "say --offline-root; a root that the controller keeps is made when it first starts")
		case passphrase == "":
			return misused(cmd, "name a file that holds the passphrase with --passphrase-file, or - to be asked")
		}
		if err := mustBeNew(keyFile, certificate); err != nil {
			return err
		}
		root, file, err := ca.NewOfflineRoot(cluster, trustDomain, ca.PassphraseFrom(passphrase, true), time.Now())
		if err != nil {
			return err
		}
		if err := writeNew(keyFile, file, 0o600); err != nil {
			return err
		}
		if err := writeNew(certificate, root.CertificatePEM(), 0o644); err != nil {
			return err
		}
		fingerprint := ca.KeyFingerprint(root.Certificate)
		if out.structured() {
			return out.write(cmd.OutOrStdout(), map[string]string{"root": fingerprint, "key": keyFile, "certificate": certificate})
		}
		fmt.Fprintf(cmd.OutOrStdout(), "root %s of cluster %s, until %s\n", fingerprint, cluster, root.Certificate.NotAfter.Format(time.DateOnly))
		fmt.Fprintf(cmd.OutOrStdout(), "%s: its key, sealed; keep it, and a copy, away from every controller\n%s: its certificate, for controllers\n", keyFile, certificate)
		return nil
	}
	cmd.Flags().BoolVar(&offline, "offline-root", false, "the root's key is kept away from controllers")
	cmd.Flags().StringVar(&cluster, "cluster", "sennit", "name of the cluster; never changes")
	cmd.Flags().StringVar(&trustDomain, "trust-domain", "sennit.local", "SPIFFE trust domain; never changes")
	cmd.Flags().StringVar(&keyFile, "root-key", "root.key", "file that is made, with the certificate and the sealed key")
	cmd.Flags().StringVar(&certificate, "root", "root.crt", "file that is made, with the certificate")
	passphraseFlag(cmd, &passphrase, "the passphrase that the key is sealed under")
	return cmd
}

func passphraseFlag(cmd *cobra.Command, into *string, what string) {
	cmd.Flags().StringVar(into, "passphrase-file", "", "file with "+what+"; - asks at the terminal")
	_ = cmd.MarkFlagFilename("passphrase-file")
}

func caRequestCommand() *cobra.Command {
	var conn connection
	var cfg authorityFlags
	var root, to, show, next, online string
	var outside []string
	var signing bool
	cmd := &cobra.Command{
		Use: "request", Short: "Write what a controller asks a root for that is kept elsewhere",
		Long: `Request makes new keys for this controller's intermediate and for its rosters, and writes what the root is to sign. With --state-dir it is
for a controller that does not run: before its first start, with --root. Without, the running controller is asked, whose
intermediate comes to its end.

With --next-root or --online-root another root is to follow on the one there is. Each of the two whose key is kept elsewhere
signs the same request, and when the last answer is accepted the rotation begins (` + "`sennit ca rotate --help`" + `). With --signing it
is another key that signs configuration, as with ` + "`sennit ca rotate --signing`" + `.

With --outside-root nodes may be told to trust the root of an authority outside of the mesh (--upstream-ca of the controller),
once this one has agreed to it. Those that they trust already are named in each request.`,
		Example: `  sennit ca request --state-dir /var/lib/sennit/controller --root root.crt    # before the first start
  sennit ca request --to request.pem
  sennit ca request --next-root root2.crt       # a root whose key is kept elsewhere is to follow
  sennit ca request --online-root root2.crt     # one whose key the controller makes and keeps, and writes the certificate of`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if show != "" {
			file, err := readSmall(show)
			if err != nil {
				return err
			}
			request, err := ca.ParseRequest(file)
			if err != nil {
				return fmt.Errorf("%s: %w", show, err)
			}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), map[string]string{"request": show, "fingerprint": request.Fingerprint, "cluster": request.Cluster, "controller": request.Controller})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), request.Fingerprint)
			return err
		}
		if err := mustBeNew(to, online); err != nil { // the request before ends with each that is made
			return err
		}
		asked, err := askedRoot(next, online != "", signing)
		if err != nil {
			return err
		}
		roots, err := readOutsideRoots(outside)
		if err != nil {
			return err
		}
		for _, root := range roots {
			asked.OutsideRoots = append(asked.OutsideRoots, string(ca.RootPEM(root)))
		}
		file, awaits, err := makeRequest(cmd, &conn, &cfg, root, asked)
		if err != nil {
			return err
		}
		if online != "" {
			request, err := ca.ParseRequest(file)
			if err != nil {
				return err
			}
			if err := writeNew(online, request.NextPEM(), 0o644); err != nil {
				return err
			}
		}
		return writeRequest(cmd, out, to, file, awaits)
	}
	cfg.add(cmd)
	conn.flags(cmd)
	cmd.Flags().StringVar(&root, "root", "", "certificate of the root, which `sennit ca init` made; for a controller that never ran")
	cmd.Flags().StringVar(&next, "next-root", "", "certificate of a root, which `sennit ca init` made, that is to follow on the one there is")
	cmd.Flags().StringVar(&online, "online-root", "", "let a root follow that the controller makes and keeps, and write its certificate to this file")
	cmd.Flags().BoolVar(&signing, "signing", false, "let another signing key follow on the one there is")
	cmd.Flags().StringArrayVar(&outside, "outside-root", nil, "certificates of an authority outside of the mesh whose root nodes are to trust as well; may be repeated")
	cmd.Flags().StringVar(&to, "to", "request.pem", "file that is made")
	cmd.Flags().StringVar(&show, "show", "", "show the fingerprint of this request, and make none")
	cmd.MarkFlagsMutuallyExclusive("root", "next-root", "online-root", "signing", "show")
	cmd.MarkFlagsMutuallyExclusive("outside-root", "next-root", "online-root", "signing", "show")
	return cmd
}

func caSignCommand() *cobra.Command {
	var keyFile, passphrase, request, fingerprint, next, old, to string
	var outside []string
	var life time.Duration
	cmd := &cobra.Command{
		Use: "sign", Short: "Sign, with the root's key, what a controller asks for",
		Long: `Sign answers a controller's request, where the root's key is. Whoever carried the request can have changed it: compare
the fingerprint that the controller's host showed.

Where the request is for another root to follow, the root of before names it as its successor, and the next one lets the
controller list both. Either is for good: say which other root you mean with --next-root or --old-root.

Where it names the root of an authority outside of the mesh, that one may name anybody in the mesh's trust domain from then on:
give its certificate with --outside-root, from elsewhere than the request.`,
		Example: `  sennit ca sign --request request.pem --fingerprint 5f3a9c… --root-key root.key --passphrase-file -
  sennit ca sign --fingerprint 5f3a9c… --root-key root.key --next-root root2.crt --passphrase-file -
  sennit ca sign --fingerprint 5f3a9c… --root-key root2.key --old-root root.crt --to answer2.pem --passphrase-file -`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := readSmall(request)
		if err != nil {
			return err
		}
		asked, err := ca.ParseRequest(file)
		if err != nil {
			return fmt.Errorf("%s: %w", request, err)
		}
		if asked.Fingerprint != fingerprint {
			return fmt.Errorf("%s has the fingerprint %s, of controller %s in cluster %s: give the one that the controller's host showed with --fingerprint; if they are not the same, the request was changed on the way",
				request, asked.Fingerprint, asked.Controller, asked.Cluster)
		}
		sealed, err := readSmall(keyFile)
		if err != nil {
			return err
		}
		root, err := ca.OpenOfflineRoot(sealed, ca.PassphraseFrom(passphrase, false))
		if err != nil {
			return fmt.Errorf("%s: %w", keyFile, err)
		}
		if err := agree(root, asked, next, old); err != nil {
			return fmt.Errorf("%s: %w", request, err)
		}
		if asked.AgreedOutside, err = readOutsideRoots(outside); err != nil {
			return err
		}
		answer, err := root.Sign(asked, life, time.Now())
		if err != nil {
			return err
		}
		if err := writeNew(to, answer, 0o644); err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), map[string]string{"answer": to})
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: carry it to controller %s, and take it with `sennit ca accept --answer %s`\n", to, asked.Controller, filepath.Base(to))
		return nil
	}
	f := cmd.Flags()
	f.StringVar(&keyFile, "root-key", "root.key", "the file that `sennit ca init` made")
	f.StringVar(&request, "request", "request.pem", "the file that `sennit ca request` made")
	f.StringVar(&fingerprint, "fingerprint", "", "the request's, as the controller's host showed it")
	f.StringVar(&next, "next-root", "", "the root that is to follow on this one: the file of its certificate, or its fingerprint as `sennit ca request` showed it")
	f.StringVar(&old, "old-root", "", "the root that this one follows on: the same")
	f.StringArrayVar(&outside, "outside-root", nil, "certificates of the root of an authority outside of the mesh that nodes may trust as well; may be repeated")
	f.DurationVar(&life, "life", 90*24*time.Hour, "how long the controller may issue certificates; at most 17520h")
	f.StringVar(&to, "to", "answer.pem", "file that is made")
	passphraseFlag(cmd, &passphrase, "the passphrase that the key is sealed under")
	return cmd
}

func caAcceptCommand() *cobra.Command {
	var conn connection
	var cfg authorityFlags
	var answer string
	cmd := &cobra.Command{
		Use: "accept", Short: "Let a controller take what the root signed",
		Example: `  sennit ca accept --state-dir /var/lib/sennit/controller --answer answer.pem    # before the first start
  sennit ca accept --answer answer.pem`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := readSmall(answer)
		if err != nil {
			return err
		}
		var then string // what follows
		if cfg.stateDir != "" {
			err = cfg.with("", func(a *ca.Authority) error {
				err := a.Accept(file)
				if next, awaits := a.Awaited(); err == nil && next != nil {
					then = awaited(&report.NextRoot{Key: ca.KeyFingerprint(next), Awaits: awaits})
				}
				return err
			})
		} else {
			c, openErr := conn.open(cmd)
			if openErr != nil {
				return openErr
			}
			if err = c.RootAnswer(cmd.Context(), file); err == nil {
				then, err = afterAnswer(cmd.Context(), c)
			}
		}
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), map[string]string{"answer": answer, "result": "accepted"})
		}
		fmt.Fprintln(cmd.OutOrStdout(), "accepted")
		if then != "" {
			fmt.Fprintln(cmd.OutOrStdout(), then)
		}
		return nil
	}
	cfg.add(cmd)
	conn.flags(cmd)
	cmd.Flags().StringVar(&answer, "answer", "answer.pem", "the file that `sennit ca sign` made")
	return cmd
}

func caSealCommand() *cobra.Command {
	var file, before, passphrase string
	cmd := &cobra.Command{
		Use: "seal KEY-FILE", Short: "Seal a controller's key file under a passphrase, or under another one",
		Long: `Seal encrypts the file of the key that the authority's keys are sealed under (ca.key), with a passphrase. Stop the
controller first, and start it with --ca-passphrase-file afterwards. The key itself stays the same.`,
		Example: `  sennit ca seal /var/lib/sennit/controller/ca/ca.key --passphrase-file -`,
		Args:    cobra.ExactArgs(1),
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file = args[0]; passphrase == "" {
			return misused(cmd, "name a file that holds the passphrase with --passphrase-file, or - to be asked")
		}
		if err := ca.SealKeyFile(file, ca.PassphraseFrom(before, false), ca.PassphraseFrom(passphrase, true)); err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), map[string]string{"file": file, "result": "sealed"})
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: sealed; start the controller with --ca-passphrase-file\n", file)
		return err
	}
	cmd.Flags().StringVar(&before, "old-passphrase-file", "", "file with the passphrase that it was sealed under before; - asks at the terminal")
	passphraseFlag(cmd, &passphrase, "the passphrase that it is sealed under")
	return cmd
}

// authorityFlags say which authority, of a controller that does not run.
type authorityFlags struct {
	stateDir, cluster, trustDomain, name, keyFile, passphrase string
}

func (f *authorityFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.stateDir, "state-dir", "", "state directory of a controller that does not run; empty: the running controller is asked")
	flags.StringVar(&f.cluster, "cluster", "sennit", "with --state-dir: name of the cluster")
	flags.StringVar(&f.trustDomain, "trust-domain", "sennit.local", "with --state-dir: SPIFFE trust domain")
	flags.StringVar(&f.name, "name", "controller", "with --state-dir: name of the controller")
	flags.StringVar(&f.keyFile, "ca-key-file", "", "with --state-dir: as the controller's flag")
	flags.StringVar(&f.passphrase, "ca-passphrase-file", "", "with --state-dir: as the controller's flag")
}

// with opens the authority, which may wait for its root; root is a file, where it is to be begun.
func (f *authorityFlags) with(root string, do func(*ca.Authority) error) (err error) {
	cfg := ca.AuthorityConfig{
		Dir: filepath.Join(f.stateDir, "ca"), Cluster: f.cluster, TrustDomain: f.trustDomain, Name: f.name,
		KeyFile: f.keyFile, Passphrase: ca.PassphraseFrom(f.passphrase, false),
	}
	a, err := openAwaiting(cfg, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	return do(a)
}

func openAwaiting(cfg ca.AuthorityConfig, file string) (*ca.Authority, error) {
	if file == "" {
		return ca.AwaitRoot(cfg, nil)
	}
	data, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	root, err := ca.ParseRoot(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return ca.AwaitRoot(cfg, root)
}

func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err == nil && len(data) > maxCAFile {
		err = fmt.Errorf("%s has more than %d bytes", file, maxCAFile)
	}
	return data, err
}

// mustBeNew finds before anything is done that a file is there that writeNew is to make. Empty names are of none.
func mustBeNew(files ...string) error {
	for _, file := range files {
		if _, err := os.Lstat(file); file != "" && err == nil {
			return errNotNew(file)
		}
	}
	return nil
}

func errNotNew(file string) error {
	return fmt.Errorf("%s is there already (name another file, or move it away)", file)
}

// writeNew writes a file that must not be there yet.
func writeNew(file string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return errNotNew(file)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
