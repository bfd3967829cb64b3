package ca

import (
	"context"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	nonceSize  = 32
	maxAddress = 64        // bytes of ip:port
	maxRequest = 512 << 10 // bytes of a request: 256 services with their CSRs

	// maxSkew is how far a host's clock may be from the controller's when it joins. Certificates are
	// backdated by as much.
	maxSkew = backdate
)

// grant registers the node as record says, where sequence is still the record's last, and issues what the
// node asks for. The record is stored first: a certificate that the registry does not know of is never
// given out.
func (r *Registrar) grant(ctx context.Context, verb string, record *NodeRecord, sequence uint64, wanted *Wanted, keys *wantedKeys) (*Grant, error) {
	now, node, authority := r.cfg.Now(), record.GetNode(), r.cfg.Authority
	revoked, err := r.revoked(ctx)
	if err != nil {
		return nil, err
	}
	if err := record.useBus(wanted.GetBusUser()); err != nil {
		return nil, err
	}
	record.ReceiptNumber++
	record.Allowed = nil // the receipt says so from now on
	receipt, err := proto.Marshal(&Receipt{
		Cluster: authority.Cluster(), Node: node, PublicKey: record.GetPublicKey(), Generation: record.GetGeneration(),
		Services: record.GetServices(), IssuedUnixMs: now.UnixMilli(), Epoch: authority.Epoch(),
		Number: record.GetReceiptNumber(),
	})
	if err != nil {
		return nil, err
	}
	signer := authority.Signer()
	record.Receipt = &SignedReceipt{Receipt: receipt, KeyId: signer.ID, Signature: signer.Sign(receiptDomain, receipt)}
	record.RenewedUnixMs, record.Epoch = now.UnixMilli(), authority.Epoch()
	if address, err := netip.ParseAddrPort(wanted.GetAddress()); err == nil {
		record.Address = address.String()
	} else if wanted.GetAddress() != "" {
		return nil, refuse(ErrBadRequest, "address %q: want ip:port", wanted.GetAddress())
	}
	if err := r.write(ctx, record, sequence); err != nil {
		return nil, err
	}
	grant := &Grant{Receipt: record.GetReceipt()}
	orders := []order{keys.nodeCert}
	orders[0].id, orders[0].node = NodeID(authority.TrustDomain(), node), node
	orders[0].after = revoked.after(node, orders[0].id)
	for i, service := range wanted.GetServices() {
		name, err := exchange.ParseServiceName(service.GetService())
		if err != nil {
			return nil, err
		}
		if !slices.Contains(record.GetServices(), name.String()) { // the node had it before, or hopes
			grant.NotAllowed = append(grant.NotAllowed, service.GetService())
			continue
		}
		o := keys.services[i]
		o.id, o.node = ServiceID(authority.TrustDomain(), name), node
		o.after = revoked.after(node, o.id)
		orders = append(orders, o)
		grant.Services = append(grant.Services, &ServiceGrant{Service: name.String()})
	}
	chains, issued, err := authority.issue(r.cfg.TTL, orders...)
	if err != nil {
		return nil, err
	}
	if err := r.cfg.Record(ctx, Decision{
		Node: node, Verb: verb, Address: record.GetAddress(), Services: record.GetServices(), Generation: record.GetGeneration(), Issued: issued,
	}); err != nil {
		return nil, err
	}
	grant.NodeChain = chains[0]
	for i, service := range grant.GetServices() {
		service.Chain = chains[i+1]
	}
	chain, err := parseChain(chains[0])
	if err != nil {
		return nil, err
	}
	grant.BusExpiresUnixMs = chain[0].NotAfter.UnixMilli()
	if grant.BusJwt, err = r.cfg.Users.NodeUser(node, record.GetServices(), wanted.GetBusUser(), chain[0].NotAfter); err != nil {
		return nil, refuse(ErrBadRequest, "%v", err)
	}
	if grant.RenewJwt, err = r.cfg.Users.RenewUser(node, wanted.GetBusUser()); err != nil {
		return nil, refuse(ErrBadRequest, "%v", err)
	}
	return grant, nil
}
