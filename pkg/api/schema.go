package api

import (
	"embed"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kube-openapi/pkg/validation/spec"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The schemas of Gateway API's kinds as it publishes them, by plural; the first field of each names source and licence
// (Apache-2.0).
//
//go:embed *.schema.json
var published embed.FS

const (
	refPrefix = "#/components/schemas/"
	metaModel = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
)

// Definitions returns the schemas of all kinds and of what they are made of, by name, as OpenAPI v3 has them
// under components/schemas. The result is shared and must not be changed.
var Definitions = sync.OnceValue(func() map[string]*spec.Schema {
	b := builder{defs: map[string]*spec.Schema{}}
	for _, k := range Kinds() {
		if k.Group == gatewayv1.GroupName {
			b.defs[k.model] = publishedSchema(k.Plural)
		} else {
			b.model(k.typ, k.model)
		}
	}
	for _, k := range Kinds() {
		s := b.defs[k.model]
		s.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": k.Group, "version": k.Version, "kind": k.Name}})
	}
	return b.defs
})

func publishedSchema(plural string) *spec.Schema {
	data, err := published.ReadFile(plural + ".schema.json")
	var file struct {
		Schema spec.Schema `json:"schema"`
	}
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		panic("api: embedded schema: " + err.Error()) // a mistake in what go generate made
	}
	file.Schema.Properties = maps.Clone(file.Schema.Properties)
	file.Schema.Properties["metadata"] = *spec.RefSchema(refPrefix + metaModel)
	return &file.Schema
}

// publishedMatch is the schema of one match of an HTTPRoute, with its defaults and rules.
func publishedMatch() *spec.Schema {
	rule := publishedSchema(HTTPRoute.Plural).Properties["spec"].Properties["rules"].Items.Schema
	return rule.Properties["matches"].Items.Schema
}

// A builder makes schemas of Go types from their JSON tags and SwaggerDoc texts.
type builder struct{ defs map[string]*spec.Schema }

// traits are what the Go types of Kubernetes say in comments only: how lists merge, what is set by default.
var traits = map[string]struct {
	keys []string // the list merges by these keys
	list string   // "set"
	def  any
	atom bool // the map is replaced as a whole
	need bool
}{
	"ServiceSpec.ports":            {keys: []string{"port", "protocol"}},
	"ServicePort.protocol":         {def: "TCP"},
	"ServicePort.port":             {need: true},
	"ServiceSpec.selector":         {atom: true},
	"ServiceStatus.conditions":     {keys: []string{"type"}},
	"NamespaceStatus.conditions":   {keys: []string{"type"}},
	"ObjectMeta.finalizers":        {list: "set"},
	"ObjectMeta.ownerReferences":   {keys: []string{"uid"}},
	"JoinTokenSpec.node":           {need: true},
	"JoinTokenAttest.provider":     {need: true},
	"OperatorTokenSpec.operator":   {need: true},
	"QuotaPolicy.spec":             {need: true},
	"QuotaPolicySpec.targetRefs":   {need: true},
	"QuotaPolicySpec.limits":       {keys: []string{"name"}, need: true},
	"QuotaTarget.kind":             {need: true},
	"QuotaTarget.name":             {need: true},
	"QuotaLimit.name":              {need: true},
	"QuotaLimit.requests":          {need: true},
	"QuotaLimit.per":               {need: true},
	"QuotaKey.type":                {need: true},
	"QuotaPolicyStatus.conditions": {keys: []string{"type"}},

	"ExternalService.spec":             {need: true},
	"ExternalServiceSpec.host":         {need: true},
	"ExternalServiceSpec.port":         {need: true},
	"ExternalServiceSpec.protocol":     {def: "HTTP"},
	"ExternalServiceTLS.mode":          {need: true},
	"ExternalServiceStatus.conditions": {keys: []string{"type"}},

	"ResiliencePolicy.spec":                {need: true},
	"ResiliencePolicySpec.targetRefs":      {need: true},
	"ResilienceTarget.kind":                {need: true},
	"ResilienceTarget.name":                {need: true},
	"ResilienceOutliers.ejectionTime":      {def: "30s"},
	"ResilienceOutliers.maxEjectionTime":   {def: "5m"},
	"ResilienceOutliers.maxEjectedPercent": {def: int64(50)},
	"ResilienceOutliers.panicPercent":      {def: int64(50)},
	"ResilienceOutliers.interval":          {def: "10s"},
	"OutlierRate.minInstances":             {def: int64(5)},
	"OutlierRate.minRequests":              {def: int64(100)},
	"OutlierRate.factor":                   {def: 1.9},
	"OutlierLatency.minInstances":          {def: int64(3)},
	"OutlierLatency.minRequests":           {def: int64(100)},
	"OutlierLatency.factor":                {def: int64(3)},
	"OutlierLatency.minDifference":         {def: "10ms"},
	"AdaptiveConcurrency.interval":         {def: "500ms"},
	"AdaptiveConcurrency.minRequests":      {def: int64(20)},
	"AdaptiveConcurrency.minConcurrency":   {def: int64(4)},
	"AdaptiveConcurrency.maxConcurrency":   {def: int64(1000)},
	"AdaptiveConcurrency.tolerance":        {def: 1.5},
	"AdaptiveConcurrency.probeInterval":    {def: "30s"},
	"Hedging.delay":                        {need: true},
	"ResilienceRetry.conditions":           {def: []any{OnConnectFailure, OnReset, OnTimeout}},
	"ResilienceRetry.attempts":             {def: int64(1)},
	"ResilienceRetry.backoff":              {def: "25ms"},
	"RetryBudget.percent":                  {def: int64(20)},
	"RetryBudget.minPerSecond":             {def: int64(3)},
	"ResiliencePolicyStatus.conditions":    {keys: []string{"type"}},

	"AuthorizationPolicy.spec":             {need: true},
	"AuthorizationPolicySpec.targetRefs":   {need: true},
	"AuthorizationPolicySpec.action":       {def: AuthorizationAllow},
	"AuthorizationPolicySpec.mode":         {def: AuthorizationEnforce},
	"AuthorizationTarget.kind":             {need: true},
	"AuthorizationTarget.name":             {need: true},
	"AuthorizationPath.type":               {def: AuthorizationPrefix},
	"AuthorizationPath.value":              {need: true},
	"AuthorizationHeader.name":             {need: true},
	"AuthorizationHeader.type":             {def: AuthorizationExact},
	"AuthorizationPolicyStatus.conditions": {keys: []string{"type"}},

	"AuthenticationPolicy.spec":             {need: true},
	"AuthenticationPolicySpec.targetRefs":   {need: true},
	"AuthenticationPolicySpec.presence":     {def: PresenceRequired},
	"AuthenticationPolicySpec.issuers":      {keys: []string{"issuer"}, need: true},
	"AuthenticationTarget.kind":             {need: true},
	"AuthenticationTarget.name":             {need: true},
	"AuthenticationIssuer.issuer":           {need: true},
	"AuthenticationIssuer.leeway":           {def: "30s"},
	"AuthenticationIssuer.keys":             {need: true},
	"OIDCLogin.issuer":                      {need: true},
	"OIDCLogin.clientID":                    {need: true},
	"OIDCLogin.scopes":                      {def: []any{"openid"}},
	"OIDCLogin.callbackPath":                {def: "/sennit/callback"},
	"OIDCLogin.logoutPath":                  {def: "/sennit/logout"},
	"OIDCLogin.cookieName":                  {def: "sennit-session"},
	"OIDCLogin.sessionTime":                 {def: "12h"},
	"OIDCSecret.name":                       {need: true},
	"ClaimHeader.header":                    {need: true},
	"ClaimHeader.claim":                     {need: true},
	"AuthenticationPolicyStatus.conditions": {keys: []string{"type"}},

	"FederatedTrustDomain.spec":             {need: true},
	"FederatedTrustDomainSpec.trustDomain":  {need: true},
	"FederatedTrustDomainSpec.endpoint":     {need: true},
	"BundleEndpoint.url":                    {need: true},
	"BundleEndpoint.profile":                {need: true},
	"FederatedTrustDomainStatus.conditions": {keys: []string{"type"}},

	"FaultPolicy.spec":             {need: true},
	"FaultPolicySpec.targetRefs":   {need: true},
	"FaultPolicySpec.faults":       {keys: []string{"name"}, need: true},
	"FaultTarget.kind":             {need: true},
	"FaultTarget.name":             {need: true},
	"Fault.name":                   {need: true},
	"Fault.percentage":             {need: true},
	"FaultCaller.name":             {need: true},
	"FaultDelay.fixed":             {need: true},
	"FaultAbort.httpStatus":        {def: int64(503)},
	"FaultPolicyStatus.conditions": {keys: []string{"type"}},

	"PolicyRule.verbs":           {need: true},
	"RoleBinding.roleRef":        {need: true},
	"ClusterRoleBinding.roleRef": {need: true},
	"RoleRef.kind":               {need: true},
	"RoleRef.name":               {need: true},
	"Subject.kind":               {need: true},
	"Subject.name":               {need: true},

	"LoadBalancingPolicy.spec":             {need: true},
	"LoadBalancingPolicySpec.targetRefs":   {need: true},
	"LoadBalancingPolicySpec.algorithm":    {def: LeastRequest},
	"LoadBalancingLocality.prefer":         {need: true},
	"LoadBalancingSlowStart.window":        {need: true},
	"LoadBalancingKey.type":                {need: true},
	"LoadBalancingTarget.kind":             {need: true},
	"LoadBalancingTarget.name":             {need: true},
	"LoadBalancingPolicyStatus.conditions": {keys: []string{"type"}},
}

// model defines the struct t under a name and returns a reference to it.
func (b builder) model(t reflect.Type, name string) *spec.Schema {
	ref := spec.RefSchema(refPrefix + name)
	if _, have := b.defs[name]; have {
		return ref
	}
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}, Properties: map[string]spec.Schema{}}}
	b.defs[name] = s
	docs := map[string]string{}
	if d, ok := reflect.New(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		docs = d.SwaggerDoc()
	}
	s.Description = docs[""]
	b.fields(t, s, docs)
	return ref
}

func (b builder) fields(t reflect.Type, s *spec.Schema, docs map[string]string) {
	for f := range fieldsOf(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == "" && (f.Anonymous || strings.Contains(options, "inline")) {
			inner := docs
			if d, ok := reflect.New(f.Type).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
				inner = d.SwaggerDoc()
			}
			b.fields(f.Type, s, inner)
			continue
		}
		if tag == "" || tag == "-" {
			continue
		}
		p := b.typed(f.Type)
		if p.Ref.String() == "" {
			p.Description = docs[tag]
		} else if docs[tag] != "" { // a reference can have no siblings
			p = &spec.Schema{SchemaProps: spec.SchemaProps{Description: docs[tag], AllOf: []spec.Schema{*p}}}
		}
		trait := traits[t.Name()+"."+tag]
		if p.Type.Contains("array") {
			switch {
			case trait.keys != nil:
				p.AddExtension("x-kubernetes-list-type", "map")
				p.AddExtension("x-kubernetes-list-map-keys", anys(trait.keys))
			case trait.list != "":
				p.AddExtension("x-kubernetes-list-type", trait.list)
			default:
				p.AddExtension("x-kubernetes-list-type", "atomic")
			}
		}
		if trait.atom {
			p.AddExtension("x-kubernetes-map-type", "atomic")
		}
		if trait.def != nil {
			p.Default = trait.def
		}
		if trait.need {
			s.Required = append(s.Required, tag)
		}
		if v := f.Tag.Get("patchStrategy"); v != "" {
			p.AddExtension("x-kubernetes-patch-strategy", v)
		}
		if v := f.Tag.Get("patchMergeKey"); v != "" {
			p.AddExtension("x-kubernetes-patch-merge-key", v)
		}
		s.Properties[tag] = *p
	}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && !yield(f) {
				return
			}
		}
	}
}

// typed returns the schema of a field's type.
func (b builder) typed(t reflect.Type) *spec.Schema {
	switch t {
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		return spec.StrFmtProperty("date-time")
	case reflect.TypeFor[metav1.Duration]():
		s := spec.StringProperty()
		s.Pattern = `^([0-9]+(\.[0-9]+)?(h|m|s|ms|us|ns))+$`
		return s
	case reflect.TypeFor[intstr.IntOrString]():
		s := &spec.Schema{}
		s.AddExtension("x-kubernetes-int-or-string", true)
		return s
	case reflect.TypeFor[resource.Quantity]():
		return spec.StringProperty()
	case reflect.TypeFor[gatewayv1.HTTPRouteMatch]():
		return publishedMatch()
	case reflect.TypeFor[metav1.FieldsV1]():
		s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}
		s.AddExtension("x-kubernetes-preserve-unknown-fields", true)
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		return b.typed(t.Elem())
	case reflect.Bool:
		return spec.BooleanProperty()
	case reflect.Int32:
		return spec.Int32Property()
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64, reflect.Uint:
		return spec.Int64Property()
	case reflect.Float64:
		return spec.Float64Property()
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return spec.StrFmtProperty("byte")
		}
		return spec.ArrayProperty(b.typed(t.Elem()))
	case reflect.Map:
		return spec.MapProperty(b.typed(t.Elem()))
	case reflect.Struct:
		return b.model(t, modelName(t))
	default:
		return spec.StringProperty()
	}
}

func modelName(t reflect.Type) string {
	if n, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return n.OpenAPIModelName()
	}
	return "dev.sennit.v1alpha1." + t.Name()
}

func anys(l []string) []any {
	out := make([]any, len(l))
	for i, s := range l {
		out[i] = s
	}
	return out
}
