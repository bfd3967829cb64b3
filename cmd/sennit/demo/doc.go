// Package demo shows a whole mesh on one machine, unprivileged: a controller and three nodes as processes of
// their own, a small shop whose services call each other through them, and customers who keep buying while
// payments moves from one version to the next, a node is killed and a caller is limited. It shows the graph and the
// audit of that, and fails where one of them is not as it must be.
//
// Nothing in it is special to the demo: the daemons are the product's, and each step is an API call that it
// prints as the command that does the same by hand. Start reading at demo.go.
package demo
