// Package demo shows a whole mesh on one machine, unprivileged: a controller and three nodes as processes of
// their own, a small shop whose services call each other through them, and customers who keep buying while
// payments moves from one version to the next and a node is killed.
//
// Nothing in it is special to the demo: the daemons are the product's, and each step is an API call that it
// prints as the command that does the same by hand. Start reading at demo.go.
package demo
