//! Resources of the core group that are not stored: `bindings` and `componentstatuses`.
use super::output::{self, Form};
use super::{Call, Engine, Media, Request, Result, media, subresource};
use crate::discovery::virtuals::{self, BINDINGS, COMPONENT_STATUSES};
use crate::{Body, Verb};
use api::Status;
use http::{Response, StatusCode};
use media::Shape;
use serde_json::{Value, json};

/// The parts that upstream's list names. Here they are one process with the API: who can ask finds them running.
const COMPONENTS: [&str; 3] = ["scheduler", "controller-manager", "etcd-0"];
const DEPRECATED: &str = "v1 ComponentStatus is deprecated in v1.19+";

/// Whether the request is for one of them.
pub fn serves(request: &Request) -> bool {
    let info = &request.info;
    info.group.is_empty()
        && info.version == "v1"
        && info.subresource.is_empty()
        && matches!(&*info.resource, BINDINGS | COMPONENT_STATUSES)
}

pub async fn serve(engine: &Engine, request: &Request) -> Result<Response<Body>> {
    let info = &request.info;
    let resource = virtuals::core(&info.resource).ok_or_else(Status::no_such_path)?.clone();
    let media = Media::accept(&request.headers, info.param("pretty"))?;
    let call = Call { engine, request, resource, media };
    match (&*info.resource, info.verb) {
        (BINDINGS, Verb::Create) => bind(engine, request).await,
        (COMPONENT_STATUSES, Verb::Get) if COMPONENTS.contains(&&*info.name) => {
            Ok(output::value(&call, StatusCode::OK, component(&info.name), &[DEPRECATED.to_owned()]))
        }
        (COMPONENT_STATUSES, Verb::Get) => Err(call.not_found(&info.name)),
        (COMPONENT_STATUSES, Verb::List) => Ok(list(&call)),
        _ => Err(call.not_allowed()),
    }
}

fn component(name: &str) -> Value {
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name, "creationTimestamp": null},
        "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
    })
}

fn list(call: &Call<'_>) -> Response<Body> {
    let form = Form::new(call);
    // They have no labels, and of fields their names alone.
    let selector = call.info().param("labelSelector").map(api::selector::LabelSelector::parse);
    let matches = |_: &Value| match &selector {
        Some(Ok(selector)) => selector.matches(&Value::Null),
        _ => true,
    };
    let items: Vec<Value> = COMPONENTS.map(component).into_iter().filter(matches).collect();
    let body = match call.media.shape {
        Shape::Table => {
            let printer = form.printer();
            let rows = items.iter().map(|item| form.row(&*printer, item)).collect();
            form.table(&*printer, json!({"resourceVersion": ""}), rows, true)
        }
        Shape::Partial => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
            "items": items.iter().map(output::partial).collect::<Vec<_>>()}),
        Shape::Object => json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items}),
    };
    output::with_warnings(output::plain(call, StatusCode::OK, &body), &[DEPRECATED.to_owned()])
}

/// The same as a POST to the pod's own `binding`, whose name is in the body.
async fn bind(engine: &Engine, request: &Request) -> Result<Response<Body>> {
    let json = media::to_json(&request.body, media::body_format(&request.headers)?)?;
    let binding: Value = serde_json::from_slice(&json).map_err(|e| Status::bad_request(e.to_string()))?;
    let mut request = request.clone();
    request.info.resource = "pods".into();
    request.info.subresource = "binding".into();
    request.info.name = binding["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    subresource::bind(&Call::new(engine, &request)?).await
}
