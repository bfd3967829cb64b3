// Package registry knows which services run where: on a node what its own host runs, on a controller what
// all nodes run.
//
// On a node, Local reads declarations (files of services.d and what was registered at run time), checks
// their health and answers, without a lock, where a call that arrives for a service goes; Registrar tells
// the controllers, and goes on telling until both agree. On a controller, Catalogue keeps what the nodes
// registered, as records that never expire, and the leader decides there which nodes are lost.
//
// A node that is silent is first of all a node that could not be heard: nobody is declared lost after an
// election or an outage of the bus, nor when many fall silent together (liveness.go says why). The health
// of an instance and the liveness of its node are two facts and are kept apart.
//
// It opens no listeners, signs nothing and speaks no NATS: whoever composes it hands it Bus and Records.
// Start reading at instance.go, then local.go (node) or catalogue.go (controller).
package registry
