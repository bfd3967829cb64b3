package apiserver

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// A column of a table: wide ones are shown with -o wide only.
type column struct {
	name, says string
	wide       bool
	cell       func(u *unstructured.Unstructured) any
}

// routeColumns are those of every kind of route.
var routeColumns = []column{
	{"Hostnames", "Host names that the route is for.", false, func(u *unstructured.Unstructured) any {
		list, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "hostnames")
		return strings.Join(list, ",")
	}},
	{"Parents", "What the route is attached to.", false, func(u *unstructured.Unstructured) any {
		return joined(slice(u, "spec", "parentRefs"), func(m map[string]any) string {
			return fmt.Sprintf("%v/%v", strings.ToLower(fmt.Sprint(m["kind"])), m["name"])
		})
	}},
	{"Accepted", "Whether all parents accept the route.", false, condition("Accepted")},
	{"Resolved", "Whether all that the route refers to is there.", false, condition("ResolvedRefs")},
	{"Backends", "Where requests go, with weights.", true, func(u *unstructured.Unstructured) any {
		var all []any
		for _, rule := range slice(u, "spec", "rules") {
			m, _ := rule.(map[string]any)
			refs, _ := m["backendRefs"].([]any)
			all = append(all, refs...)
		}
		return joined(all, func(m map[string]any) string { return fmt.Sprintf("%v:%v=%v", m["name"], m["port"], m["weight"]) })
	}},
}

// bindingColumns are those of both kinds of bindings.
var bindingColumns = []column{
	{"Role", "What it allows.", false, func(u *unstructured.Unstructured) any {
		return fmt.Sprintf("%v/%v", value(u, "roleRef", "kind"), value(u, "roleRef", "name"))
	}},
	{"Users", "Operators that it is given to.", true, bound("User")},
	{"Groups", "Groups that it is given to.", true, bound("Group")},
}

func bound(kind string) func(*unstructured.Unstructured) any {
	return func(u *unstructured.Unstructured) any {
		var names []string
		for _, s := range slice(u, "subjects") {
			if m, _ := s.(map[string]any); m["kind"] == kind {
				names = append(names, fmt.Sprint(m["name"]))
			}
		}
		return strings.Join(names, ",")
	}
}

// columns are what people look for in each kind, after the name and before the age.
var columns = map[*api.Kind][]column{
	api.Namespace: {
		{"Status", "Whether the namespace can be used.", false, text("status", "phase")},
	},
	api.Service: {
		{"Type", "How the service is reached.", false, text("spec", "type")},
		{"Port(s)", "Ports that callers use, and their protocol.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "ports"), func(m map[string]any) string {
				return fmt.Sprintf("%v/%v", m["port"], m["protocol"])
			})
		}},
		{"Selector", "Labels of the instances; where there are none, those registered under the name.", true, func(u *unstructured.Unstructured) any {
			m, _, _ := unstructured.NestedStringMap(u.Object, "spec", "selector")
			return pairs(m)
		}},
	},
	api.Secret: {
		{"Type", "What it is for.", false, text("type")},
		{"Data", "How many values it has.", false, func(u *unstructured.Unstructured) any { return entries(u, "data") }},
	},
	api.ConfigMap: {
		{"Data", "How many values it has.", false, func(u *unstructured.Unstructured) any { return entries(u, "data") + entries(u, "binaryData") }},
	},
	api.RoleBindings:        bindingColumns,
	api.ClusterRoleBindings: bindingColumns,
	api.EndpointSlice: {
		{"AddressType", "Kind of addresses.", false, func(u *unstructured.Unstructured) any { return value(u, "addressType") }},
		{"Ports", "Ports of the endpoints.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "ports"), func(m map[string]any) string { return fmt.Sprint(m["port"]) })
		}},
		{"Endpoints", "Addresses of the endpoints.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "endpoints"), func(m map[string]any) string {
				list, _, _ := unstructured.NestedStringSlice(m, "addresses")
				return strings.Join(list, ",")
			})
		}},
	},
	api.GatewayClass: {
		{"Controller", "Who runs the Gateways of the class.", false, text("spec", "controllerName")},
		{"Accepted", "Whether it does.", false, condition("Accepted")},
		{"Description", "What the class is for.", true, text("spec", "description")},
	},
	api.Gateway: {
		{"Class", "Who runs it.", false, text("spec", "gatewayClassName")},
		{"Address", "Where those outside reach it.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "status", "addresses"), func(m map[string]any) string { return fmt.Sprint(m["value"]) })
		}},
		{"Programmed", "Whether the nodes that run it have all that it says in effect.", false, condition("Programmed")},
		{"Listeners", "Its listeners: name, port, and how many routes are attached.", false, listeners},
	},
	api.ListenerSet: {
		{"Gateway", "Whose listeners they are.", false, func(u *unstructured.Unstructured) any { return listenerSetParent(u) }},
		{"Accepted", "Whether they, or some of them, are in effect.", false, condition("Accepted")},
		{"Programmed", "Whether the nodes that run the Gateway have opened them.", false, condition("Programmed")},
		{"Listeners", "Name, port, and how many routes are attached.", false, listeners},
	},
	api.HTTPRoute: routeColumns,
	api.GRPCRoute: routeColumns,
	api.TLSRoute:  routeColumns,
	api.TCPRoute:  routeColumns[1:], // it has no hostnames
	api.UDPRoute:  routeColumns[1:],
	api.BackendTLSPolicy: {
		{"Targets", "Whose instances are spoken to in TLS.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "targetRefs"), func(m map[string]any) string {
				name := fmt.Sprintf("%v/%v", strings.ToLower(fmt.Sprint(m["kind"])), m["name"])
				if section, _ := m["sectionName"].(string); section != "" {
					name += ":" + section
				}
				return name
			})
		}},
		{"Hostname", "Whom they must show to be.", false, text("spec", "validation", "hostname")},
		{"Accepted", "Whether the policy is in effect.", false, condition("Accepted")},
	},
	api.QuotaPolicies: {
		{"Targets", "What is limited.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "targetRefs"), func(m map[string]any) string {
				return fmt.Sprintf("%v/%v", strings.ToLower(fmt.Sprint(m["kind"])), m["name"])
			})
		}},
		{"Limits", "What is allowed.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "limits"), func(m map[string]any) string {
				return fmt.Sprintf("%v/%v", m["requests"], m["per"])
			})
		}},
		{"Accepted", "Whether the policy is in effect.", false, func(u *unstructured.Unstructured) any {
			for _, c := range slice(u, "status", "conditions") {
				if m, _ := c.(map[string]any); m["type"] == "Accepted" {
					return m["status"]
				}
			}
			return nil
		}},
	},
	api.ExternalServices: {
		{"Host", "What is called, and its port.", false, func(u *unstructured.Unstructured) any {
			return fmt.Sprintf("%v:%v", value(u, "spec", "host"), value(u, "spec", "port"))
		}},
		{"Protocol", "HTTP or TCP.", false, text("spec", "protocol")},
		{"TLS", "Whether the nodes speak TLS to it.", false, text("spec", "tls", "mode")},
		{"Accepted", "Whether the document is in effect.", false, condition("Accepted")},
		{"Programmed", "Whether a node carries calls to it.", false, condition("Programmed")},
	},
	api.ResiliencePolicies: {
		{"Targets", "Whose callers it is for.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "targetRefs"), func(m map[string]any) string {
				return fmt.Sprintf("%v/%v", strings.ToLower(fmt.Sprint(m["kind"])), m["name"])
			})
		}},
		{"Accepted", "Whether the policy is in effect.", false, condition("Accepted")},
	},
	api.FaultPolicies: {
		{"Targets", "Whose requests are spoiled.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "targetRefs"), func(m map[string]any) string {
				return fmt.Sprintf("%v/%v", strings.ToLower(fmt.Sprint(m["kind"])), m["name"])
			})
		}},
		{"Faults", "What happens to which share of them.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "faults"), func(m map[string]any) string {
				var what []string
				for _, action := range []string{"delay", "abort", "bandwidth", "reset"} {
					if m[action] != nil {
						what = append(what, action)
					}
				}
				return fmt.Sprintf("%v=%v%%", strings.Join(what, "+"), m["percentage"])
			})
		}},
		{"Accepted", "Whether the policy is in effect.", false, condition("Accepted")},
	},
	api.LoadBalancingPolicies: {
		{"Targets", "Whose instances are meant.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "targetRefs"), func(m map[string]any) string {
				return fmt.Sprintf("%v/%v", strings.ToLower(fmt.Sprint(m["kind"])), m["name"])
			})
		}},
		{"Algorithm", "How they share the requests.", false, text("spec", "algorithm")},
		{"Accepted", "Whether the policy is in effect.", false, condition("Accepted")},
	},
	api.AuthorizationPolicies: {
		{"Targets", "For which services it is.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "targetRefs"), func(m map[string]any) string {
				return fmt.Sprintf("%v/%v", strings.ToLower(fmt.Sprint(m["kind"])), m["name"])
			})
		}},
		{"Action", "What it does with requests that one of its rules is for.", false, text("spec", "action")},
		{"Mode", "Whether it refuses, or only counts what it would refuse.", false, text("spec", "mode")},
		{"Accepted", "Whether the policy is in effect.", false, condition("Accepted")},
	},
	api.AuthenticationPolicies: {
		{"Targets", "For which requests it is.", false, func(u *unstructured.Unstructured) any {
			return joined(slice(u, "spec", "targetRefs"), func(m map[string]any) string {
				return fmt.Sprintf("%v/%v", strings.ToLower(fmt.Sprint(m["kind"])), m["name"])
			})
		}},
		{"Presence", "Whether a request without a token is refused.", false, text("spec", "presence")},
		{"Keys", "Whether the keys of all issuers are known.", false, condition("ResolvedRefs")},
		{"Accepted", "Whether the policy is in effect.", false, condition("Accepted")},
	},
	api.FederatedTrustDomains: {
		{"Trust-Domain", "Whose SVIDs processes may verify.", false, text("spec", "trustDomain")},
		{"Endpoint", "Where its bundle is served.", false, text("spec", "endpoint", "url")},
		{"Accepted", "Whether the document is in effect.", false, condition("Accepted")},
		{"Fetched", "Whether the endpoint served the bundle last.", false, condition("Fetched")},
	},
	api.JoinTokens: {
		{"Node", "Name that the host will have.", false, text("spec", "node")},
		{"Services", "Services that the host may run.", false, list("spec", "services")},
		{"Expires", "When the token ends.", false, text("status", "expires")},
		{"Used By", "The node that joined with it.", false, text("status", "usedBy")},
	},
	api.OperatorTokens: {
		{"Operator", "Whom the token stands for.", false, text("spec", "operator")},
		{"Groups", "Groups that he is of.", false, list("spec", "groups")},
		{"Expires", "When the token ends.", false, text("status", "expires")},
		{"Made By", "The operator who made it.", true, text("status", "madeBy")},
	},
	api.Nodes: {
		{"Liveness", "alive, lost or frozen.", false, text("status", "liveness")},
		{"Instances", "Instances that it has registered.", false, func(u *unstructured.Unstructured) any { return value(u, "status", "instances") }},
		{"Address", "Where its lanes are dialled.", false, text("status", "address")},
		{"Version", "Version of its program.", false, text("status", "version")},
		{"Services", "Services that it may run.", true, list("spec", "services")},
		{"Message", "What is wrong with it.", true, text("status", "message")},
	},
}

// table gives documents as rows.
func table(k *api.Kind, all []*unstructured.Unstructured, meta listMeta, include string, head bool) *metav1.Table {
	t := &metav1.Table{
		TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"},
		ListMeta: metav1.ListMeta{ResourceVersion: meta.version, Continue: meta.next},
		Rows:     make([]metav1.TableRow, 0, len(all)),
	}
	if meta.next != "" {
		t.RemainingItemCount = &meta.remaining
	}
	if head {
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{
			Name: "Name", Type: "string", Format: "name", Description: "Name of the document.",
		})
		for _, c := range columns[k] {
			def := metav1.TableColumnDefinition{Name: c.name, Type: "string", Description: c.says}
			if c.wide {
				def.Priority = 1
			}
			t.ColumnDefinitions = append(t.ColumnDefinitions, def)
		}
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{
			Name: "Age", Type: "string", Description: "How long ago it was made.",
		})
	}
	for _, u := range all {
		row := metav1.TableRow{Cells: []any{u.GetName()}}
		for _, c := range columns[k] {
			v := c.cell(u)
			if v == nil || v == "" {
				v = "<none>"
			}
			row.Cells = append(row.Cells, v)
		}
		row.Cells = append(row.Cells, age(u))
		switch include {
		case "None":
		case "Object":
			row.Object.Object = u
		default:
			row.Object.Object = &unstructured.Unstructured{Object: partial(u)}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func age(u *unstructured.Unstructured) string {
	at := u.GetCreationTimestamp()
	if at.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(max(0, time.Since(at.Time)))
}

func value(u *unstructured.Unstructured, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return v
}

func slice(u *unstructured.Unstructured, path ...string) []any {
	l, _ := value(u, path...).([]any)
	return l
}

func text(path ...string) func(*unstructured.Unstructured) any {
	return func(u *unstructured.Unstructured) any { return value(u, path...) }
}

func list(path ...string) func(*unstructured.Unstructured) any {
	return func(u *unstructured.Unstructured) any {
		l, _, _ := unstructured.NestedStringSlice(u.Object, path...)
		return strings.Join(l, ",")
	}
}

func joined(l []any, say func(map[string]any) string) string {
	var parts []string
	for _, v := range l {
		if m, ok := v.(map[string]any); ok {
			parts = append(parts, say(m))
		}
	}
	const most = 3
	if len(parts) > most {
		return strings.Join(parts[:most], ",") + fmt.Sprintf(" + %d more", len(parts)-most)
	}
	return strings.Join(parts, ",")
}

func pairs(m map[string]string) string {
	var parts []string
	for k, v := range m {
		parts = append(parts, k+"="+v)
	}
	sort.Strings(parts)
	return strings.Join(parts, ",")
}

// listeners are those of a Gateway or a ListenerSet.
func listeners(u *unstructured.Unstructured) any {
	attached := map[any]any{}
	for _, l := range slice(u, "status", "listeners") {
		m, _ := l.(map[string]any)
		attached[m["name"]] = m["attachedRoutes"]
	}
	return joined(slice(u, "spec", "listeners"), func(m map[string]any) string {
		return fmt.Sprintf("%v:%v(%v)", m["name"], m["port"], cmp.Or(attached[m["name"]], any(0)))
	})
}

func listenerSetParent(u *unstructured.Unstructured) string {
	name, _, _ := unstructured.NestedString(u.Object, "spec", "parentRef", "name")
	if namespace, _, _ := unstructured.NestedString(u.Object, "spec", "parentRef", "namespace"); namespace != "" {
		return namespace + "/" + name
	}
	return name
}

// condition gives True where all parents or ancestors, or the document as a whole, say so, else what the first other one says.
func condition(kind string) func(*unstructured.Unstructured) any {
	return func(u *unstructured.Unstructured) any {
		said := ""
		of := slices.Concat(slice(u, "status", "parents"), slice(u, "status", "ancestors"), []any{value(u, "status")})
		for _, parent := range of {
			m, _ := parent.(map[string]any)
			l, _ := m["conditions"].([]any)
			for _, c := range l {
				cond, _ := c.(map[string]any)
				if cond["type"] != kind {
					continue
				}
				if st, _ := cond["status"].(string); st != "True" {
					return fmt.Sprintf("%s (%v)", st, cond["reason"])
				}
				said = "True"
			}
		}
		return said
	}
}

func entries(u *unstructured.Unstructured, field string) int {
	m, _ := u.Object[field].(map[string]any)
	return len(m)
}
