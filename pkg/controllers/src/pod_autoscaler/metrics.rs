//! Where figures come from: the metrics of resources (`metrics.k8s.io`), of anything in the cluster
//! (`custom.metrics.k8s.io`) and beyond it (`external.metrics.k8s.io`), the latter two by adapters that are installed.
use super::usage::{Metric, Sample, Samples};
use super::{message, resource_of};
use api::quantity::Quantity as Exact;
use jiff::SignedDuration;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use serde_json::Value;
use std::fmt::Write;

const RESOURCE: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";

/// The metrics of one target.
pub struct Source<'a> {
    pub client: &'a kube::Client,
    pub namespace: &'a str,
    /// The target's pods.
    pub selector: &'a str,
}

impl Source<'_> {
    /// What each pod used of a resource.
    ///
    /// # Errors
    /// Why there is nothing, as upstream words it.
    pub async fn resource(&self, metric: &Metric<'_>) -> Result<Samples, String> {
        let path = format!("{RESOURCE}/namespaces/{}/pods", self.namespace);
        let wrong = |why: &str| format!("unable to get metrics for resource {}: {why}", metric.resource);
        let list = self.get(&path, &[("labelSelector", self.selector)]).await;
        let list = list.map_err(|why| wrong(&format!("unable to fetch metrics from resource metrics API: {why}")))?;
        let items = items(&list).ok_or_else(|| wrong("no metrics returned from resource metrics API"))?;
        let of = |item: &Value| Some((item["metadata"]["name"].as_str()?.to_owned(), sample(item, metric)?));
        Ok(items.iter().filter_map(of).collect())
    }

    /// A metric that each pod has.
    ///
    /// # Errors
    /// As above.
    pub async fn of_pods(&self, metric: &MetricIdentifier) -> Result<Samples, String> {
        let path = format!("{CUSTOM}/namespaces/{}/pods/*/{}", self.namespace, metric.name);
        let (labels, name) = (labels(metric)?, &metric.name);
        let list = self.get(&path, &[("labelSelector", self.selector), ("metricLabelSelector", &labels)]).await;
        let list = list.map_err(|why| {
            format!("unable to get metric {name}: unable to fetch metrics from custom metrics API: {why}")
        })?;
        let items = items(&list).ok_or("no metrics returned from custom metrics API")?;
        let of = |item: &Value| {
            let window = SignedDuration::from_secs(item["windowSeconds"].as_i64().unwrap_or(60));
            let at = item["timestamp"].as_str()?.parse().ok()?;
            Some((item["describedObject"]["name"].as_str()?.to_owned(), Sample { milli: milli(item)?, at, window }))
        };
        Ok(items.iter().filter_map(of).collect())
    }

    /// A metric of one object, in thousandths.
    ///
    /// # Errors
    /// As above.
    pub async fn of_object(
        &self,
        object: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
    ) -> Result<i64, String> {
        let resource = resource_of(self.client, object).await?;
        let dot = if resource.group.is_empty() { "" } else { "." };
        let place = match object.kind.as_str() {
            "Namespace" => "metrics".to_owned(),
            _ => format!("{}{dot}{}/{}", resource.plural, resource.group, object.name),
        };
        let path = format!("{CUSTOM}/namespaces/{}/{place}/{}", self.namespace, metric.name);
        let list = self.get(&path, &[("metricLabelSelector", &labels(metric)?)]).await;
        let on = format!("{} on {} {}/{}", metric.name, object.kind, self.namespace, object.name);
        let list = list.map_err(|why| {
            format!("unable to get metric {on}: unable to fetch metrics from custom metrics API: {why}")
        })?;
        items(&list).and_then(|items| milli(&items[0])).ok_or_else(|| format!("unable to get metric {on}: no value"))
    }

    /// The sum of a metric from outside, in thousandths.
    ///
    /// # Errors
    /// As above.
    pub async fn external(&self, metric: &MetricIdentifier) -> Result<i64, String> {
        let path = format!("{EXTERNAL}/namespaces/{}/{}", self.namespace, metric.name);
        let list = self.get(&path, &[("labelSelector", &labels(metric)?)]).await;
        let wrong = |why: &str| format!("unable to get external metric {}/{}: {why}", self.namespace, metric.name);
        let list = list.map_err(|why| wrong(&format!("unable to fetch metrics from external metrics API: {why}")))?;
        let items = items(&list).ok_or_else(|| wrong("no metrics returned from external metrics API"))?;
        Ok(items.iter().filter_map(milli).fold(0, i64::saturating_add))
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let request = http::Request::get(uri(path, query)).body(Vec::new()).map_err(|error| error.to_string())?;
        self.client.request(request).await.map_err(|error| message(&error))
    }
}

/// The items of a list that has some.
fn items(list: &Value) -> Option<&Vec<Value>> {
    list["items"].as_array().filter(|items| !items.is_empty())
}

fn milli(item: &Value) -> Option<i64> {
    Exact::parse(item["value"].as_str()?).ok().map(|value| value.milli_value())
}

fn labels(metric: &MetricIdentifier) -> Result<String, String> {
    let Some(written) = &metric.selector else { return Ok(String::new()) };
    let labels = written.match_labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let expressions = written.match_expressions.iter().flatten();
    let expressions = expressions.map(|e| (e.key.as_str(), e.operator.as_str(), e.values.clone().unwrap_or_default()));
    let selector = api::selector::LabelSelector::from_parts(labels, expressions).map_err(|error| error.to_string())?;
    Ok(selector.to_string())
}

/// A path with the parts of its query that say something.
fn uri(path: &str, query: &[(&str, &str)]) -> String {
    let mut uri = path.to_owned();
    for (key, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        uri.push(if uri.contains('?') { '&' } else { '?' });
        uri += key;
        uri.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
                // Writing to a String can't fail.
                _ => _ = write!(uri, "%{byte:02X}"),
            }
        }
    }
    uri
}

/// A pod's sample, if every container that counts has one.
fn sample(metrics: &Value, metric: &Metric<'_>) -> Option<Sample> {
    let containers = metrics["containers"].as_array()?;
    let counted = containers.iter().filter(|c| metric.container.is_none_or(|wanted| c["name"] == wanted));
    let used: Vec<Option<i64>> = counted
        .map(|container| {
            let used = container["usage"][metric.resource].as_str()?;
            Exact::parse(used).ok().map(|used| used.milli_value())
        })
        .collect();
    let window: SignedDuration = metrics["window"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
    let milli = used.iter().copied().sum::<Option<i64>>().filter(|_| !used.is_empty())?;
    Some(Sample { milli, at: metrics["timestamp"].as_str()?.parse().ok()?, window })
}

#[cfg(test)]
mod tests {
    use super::super::usage;
    use super::*;
    use serde_json::json;

    #[test]
    fn samples_are_sums_of_known_containers() {
        let metrics = json!({"timestamp": "2026-01-01T00:00:00Z", "window": "15s", "containers": [
            {"name": "a", "usage": {"cpu": "250m", "memory": "1Mi"}}, {"name": "b", "usage": {"cpu": "1"}}]});
        let read = |resource, container| {
            let metric = Metric { resource, container, target: usage::Target::Average(1) };
            sample(&metrics, &metric).map(|sample| sample.milli)
        };
        assert_eq!((read("cpu", None), read("cpu", Some("b"))), (Some(1_250), Some(1_000)));
        assert_eq!((read("memory", None), read("memory", Some("a"))), (None, Some(1_048_576_000)));
        assert_eq!(read("cpu", Some("c")), None);
    }

    #[test]
    fn queries_are_escaped_and_left_out_when_empty() {
        assert_eq!(uri("/a", &[("x", ""), ("y", "a=b,c in (d)")]), "/a?y=a%3Db%2Cc%20in%20%28d%29");
        assert_eq!(uri("/a", &[("x", "1"), ("y", "2")]), "/a?x=1&y=2");
        assert_eq!(uri("/a", &[("x", "")]), "/a");
    }
}
