// Package capture gets the traffic of local processes into the node, and knows who sent it.
//
// Each explicit listener of services.d is a TCP address of this host on which chosen processes call one
// service as another. For every connection the kernel is asked who owns the other end (owner.go): its user
// and its cgroup, and so its systemd unit (cgroup.go, unit.go). Who is not the listener's owner is cut off with a
// reset before a byte is read; everyone else goes, with the listener that says as whom and to whom, to one
// handler.
//
// Of a gateway, the ports are for those outside: nobody is asked who they are, each source may have so many connections
// (outside.go), and the handler is told that they are strangers.
//
// Who connects to a unix socket is told by a pidfd of that process (process.go), and is compared with workloads: the
// user, or the unit, that is a service.
//
// What is not known is refused: a connection from another host or network namespace, a socket that was
// closed before it could be looked up. The package reads no bytes of a connection and knows no HTTP. It
// runs on Linux only. Start reading at listeners.go.
package capture
