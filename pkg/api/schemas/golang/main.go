// Command golang writes what only Kubernetes' Go types tell, as one JSON object on its standard output:
//
//	zero   definition name (as in builtin.json) -> {field: value}: what Go's encoder writes of a field that nobody set;
//	       {} for a struct, whose own fields follow
//	shown  internal type -> [[Go's name, JSON name, kind], ...] in Go's order: how error texts print a value
//
// A kind of `shown` is a scalar's zero value as JSON, or null, or one of
//
//	*T  a pointer to T     =T  a T     []T  a list of T     {}T  a map to T     +T  an embedded T
//	~   a type with JSON tags, shown as it is
//
// Run it in a module that requires k8s.io/kubernetes; generate.py reads its output.
package main

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/authorization"
	"k8s.io/kubernetes/pkg/apis/batch"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/kubernetes/pkg/apis/rbac"
)

var marshaler = reflect.TypeFor[json.Marshaler]()

func encodes(t reflect.Type) bool {
	return t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler)
}

func definition(t reflect.Type) string {
	return "io." + strings.ReplaceAll(strings.Replace(t.PkgPath(), "k8s.io/", "k8s.", 1), "/", ".") + "." + t.Name()
}

type zeroes map[string]map[string]json.RawMessage

// add records the fields that t's encoder always writes, and the types below.
func (z zeroes) add(t reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || !strings.HasPrefix(t.PkgPath(), "k8s.io/") || encodes(t) {
		return
	}
	name := definition(t)
	if _, known := z[name]; known {
		return
	}
	z[name] = map[string]json.RawMessage{}
	z.fields(name, t)
}

func (z zeroes) fields(name string, t reflect.Type) {
	for i := range t.NumField() {
		field := t.Field(i)
		tag, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && tag == "" {
			z.fields(name, field.Type)
			continue
		}
		z.add(field.Type)
		omitted := strings.Contains(options, "omitempty") && field.Type.Kind() != reflect.Struct
		if tag == "" || tag == "-" || omitted || strings.Contains(options, "omitzero") {
			continue
		}
		if field.Type.Kind() == reflect.Struct && !encodes(field.Type) {
			z[name][tag] = json.RawMessage("{}")
			continue
		}
		value, err := json.Marshal(reflect.New(field.Type).Interface())
		utilruntime.Must(err)
		z[name][tag] = value
	}
}

type shown map[string][][3]string

func typeName(t reflect.Type) string {
	return t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:] + "." + t.Name()
}

// add describes the internal type t; outside is the served type of the same meaning, if any.
func (s shown) add(t, outside reflect.Type) {
	name := typeName(t)
	if _, known := s[name]; known {
		return
	}
	s[name] = [][3]string{}
	fields := [][3]string{}
	for i := range t.NumField() {
		field := t.Field(i)
		external, public := outward(outside, field.Name)
		if field.Anonymous {
			external = outside
		}
		if public == "" {
			public = strings.ToLower(field.Name[:1]) + field.Name[1:]
		}
		kind := s.kind(field.Type, external)
		if field.Anonymous {
			kind = "+" + kind[1:]
		}
		fields = append(fields, [3]string{field.Name, public, kind})
	}
	s[name] = fields
}

// outward finds the type and JSON name of the served type's field of this Go name.
func outward(outside reflect.Type, name string) (reflect.Type, string) {
	if outside == nil || outside.Kind() != reflect.Struct {
		return nil, ""
	}
	field, found := outside.FieldByName(name)
	if !found {
		return nil, ""
	}
	public, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return field.Type, public
}

func inner(t reflect.Type) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return t.Elem()
	}
	return t
}

func (s shown) kind(t, outside reflect.Type) string {
	below := func(mark string) string {
		element := t.Elem()
		if element.Kind() == reflect.Struct && !encodes(element) {
			return mark + s.named(element, inner(outside))
		}
		return "null"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return below("*")
	case reflect.Slice:
		return below("[]")
	case reflect.Map:
		return below("{}")
	case reflect.Struct:
		if !encodes(t) {
			return "=" + s.named(t, inner(outside))
		}
	}
	value, err := json.Marshal(reflect.New(t).Interface())
	utilruntime.Must(err)
	return string(value)
}

// named is the type's name in the table, or "~" for one with JSON tags.
func (s shown) named(t, outside reflect.Type) string {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("json") != "" {
			return "~"
		}
	}
	s.add(t, outside)
	return typeName(t)
}

func main() {
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistration.AddToScheme} {
		utilruntime.Must(add(known))
	}
	zero := zeroes{}
	for _, t := range known.AllKnownTypes() {
		zero.add(t)
	}
	table := shown{}
	for _, pair := range [][2]reflect.Type{
		{reflect.TypeFor[core.PodSpec](), reflect.TypeFor[corev1.PodSpec]()},
		{reflect.TypeFor[core.PersistentVolumeClaimSpec](), reflect.TypeFor[corev1.PersistentVolumeClaimSpec]()},
		{reflect.TypeFor[core.PersistentVolumeSource](), reflect.TypeFor[corev1.PersistentVolumeSource]()},
		{reflect.TypeFor[core.Taint](), reflect.TypeFor[corev1.Taint]()},
		{reflect.TypeFor[apps.DeploymentStrategy](), reflect.TypeFor[appsv1.DeploymentStrategy]()},
		{reflect.TypeFor[apps.StatefulSetUpdateStrategy](), reflect.TypeFor[appsv1.StatefulSetUpdateStrategy]()},
		{reflect.TypeFor[batch.SuccessPolicy](), reflect.TypeFor[batchv1.SuccessPolicy]()},
		{reflect.TypeFor[batch.PodFailurePolicy](), reflect.TypeFor[batchv1.PodFailurePolicy]()},
		{reflect.TypeFor[core.PodTemplateSpec](), reflect.TypeFor[corev1.PodTemplateSpec]()},
		{reflect.TypeFor[policy.PodDisruptionBudgetSpec](), reflect.TypeFor[policyv1.PodDisruptionBudgetSpec]()},
		{reflect.TypeFor[apiextensions.CustomResourceDefinitionVersion](), reflect.TypeFor[apiextensionsv1.CustomResourceDefinitionVersion]()},
		{reflect.TypeFor[rbac.RoleRef](), reflect.TypeFor[rbacv1.RoleRef]()},
		{reflect.TypeFor[authorization.NonResourceAttributes](), reflect.TypeFor[authorizationv1.NonResourceAttributes]()},
	} {
		table.add(pair[0], pair[1])
	}
	utilruntime.Must(json.NewEncoder(os.Stdout).Encode(map[string]any{"zero": zero, "shown": table}))
}
