use super::*;

const ITEM: &str = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";

fn deployments() -> Resource {
    Resource {
        gvk: GroupVersionKind::new("apps", "v1", "Deployment"),
        list_kind: "DeploymentList".into(),
        plural: "deployments".into(),
        namespaced: true,
        verbs: vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        subresources: vec![Subresource {
            name: "scale".into(),
            kind: GroupVersionKind::new("autoscaling", "v1", "Scale"),
            verbs: vec!["get", "patch", "update"],
        }],
        schemas: Schemas::builtin().clone(),
        custom: None,
        selectable_fields: Vec::new(),
    }
}

fn islands(schema: Value) -> Resource {
    Resource {
        gvk: GroupVersionKind::new("example.com", "v1", "Island"),
        list_kind: "IslandList".into(),
        plural: "islands".into(),
        namespaced: false,
        verbs: vec!["get", "list", "patch"],
        subresources: vec![],
        schemas: Arc::default(),
        custom: Some(Arc::new(schema)),
        selectable_fields: Vec::new(),
    }
}

fn json(document: &Document) -> Value {
    serde_json::from_slice(&document.plain()).unwrap()
}

/// Every reference in a document must lead somewhere in it.
fn dangling(value: &Value, known: &Value, prefix: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get("$ref") {
                let name = to.strip_prefix(prefix).unwrap_or(to);
                if known.get(name).is_none() {
                    out.push(to.clone());
                }
            }
            map.values().for_each(|value| dangling(value, known, prefix, out));
        }
        Value::Array(items) => items.iter().for_each(|value| dangling(value, known, prefix, out)),
        _ => {}
    }
}

#[test]
fn v3_tells_kubectl_that_fields_are_validated_and_how_lists_merge() {
    let documents = Documents::new([deployments()]);
    let document = json(&documents.v3("apis/apps/v1").unwrap());
    let patch = &document["paths"][ITEM]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    let names: Vec<&str> = patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);

    let schemas = &document["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert_eq!(strategy["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy");
    let scale = &document["paths"][format!("{ITEM}/scale")]["put"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");

    let mut missing = Vec::new();
    dangling(&document, schemas, "#/components/schemas/", &mut missing);
    assert_eq!(missing, [""; 0]);
}

#[test]
fn v2_has_the_same_in_json_and_protobuf() {
    let documents = Documents::new([deployments(), islands(json!({"type": "object"}))]);
    let document = json(&documents.v2());
    let mut missing = Vec::new();
    dangling(&document, &document["definitions"], "#/definitions/", &mut missing);
    assert_eq!(missing, [""; 0]);
    assert_eq!(document["paths"][ITEM]["get"]["operationId"], "readAppsV1NamespacedDeployment");
    let list = &document["paths"]["/apis/apps/v1/deployments"]["get"];
    assert_eq!(list["operationId"], "listAppsV1DeploymentForAllNamespaces");

    let bytes = documents.v2_proto().plain();
    let (parameters, extensions) = proto::tests::look(&bytes, ITEM, "io.k8s.api.apps.v1.Deployment");
    assert_eq!(parameters, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let (name, yaml) = &extensions[0];
    assert_eq!(name, "x-kubernetes-group-version-kind");
    assert_eq!(yaml, r#"[{"group":"apps","kind":"Deployment","version":"v1"}]"#);
}

#[test]
fn custom_resources_publish_their_schema() {
    let schema = json!({"type": "object", "description": "land in water", "properties": {
        "spec": {"type": "object", "nullable": true, "properties": {"area": {"type": "integer", "minimum": 1}}},
        "note": {"type": "string", "anyOf": [{"maxLength": 3}], "default": "x"}}});
    let documents = Documents::new([islands(schema)]);
    let v3 = json(&documents.v3("apis/example.com/v1").unwrap());
    let island = &v3["components"]["schemas"]["com.example.v1.Island"];
    assert_eq!(island["properties"]["spec"]["properties"]["area"]["minimum"], 1);
    assert_eq!(island["description"], "land in water");
    assert_eq!(island["x-kubernetes-group-version-kind"][0]["kind"], "Island");
    assert!(v3["components"]["schemas"]["com.example.v1.IslandList"]["properties"]["items"].is_object());
    let v2 = json(&documents.v2());
    let island = &v2["definitions"]["com.example.v1.Island"]["properties"];
    assert_eq!(island["note"], json!({"type": "string"}));
    assert_eq!(island["spec"], json!({}), "null can't be said in v2");
}

#[test]
fn hashes_change_with_what_is_served() {
    let index = |resources: Vec<Resource>| Documents::new(resources).index();
    let plain = index(vec![deployments()]);
    let url = plain["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    let hash = Documents::new([deployments()]).v3("apis/apps/v1").unwrap().hash;
    assert!(url.ends_with(&hash));
    assert_eq!(plain, index(vec![deployments()]));
    let one = index(vec![islands(json!({"type": "object"}))]);
    let other = index(vec![islands(json!({"type": "object", "description": "more"}))]);
    assert_ne!(one, other);
    assert!(Documents::new([]).v3("apis/apps/v1").is_none());
}
