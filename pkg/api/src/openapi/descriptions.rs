//! What built-in types and fields are for, as `kubectl explain` prints it: unpacked while a document is built, so
//! that an idle server does not hold it (`schemas/descriptions.py` tells the file's format).
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::collections::HashMap;

static FILE: &[u8] = include_bytes!("../../schemas/descriptions.json.gz");

#[derive(Deserialize)]
struct Rows {
    #[serde(rename = "")]
    texts: Vec<String>,
    #[serde(flatten)]
    types: HashMap<String, HashMap<String, usize>>,
}

pub struct Descriptions(Rows);

impl Descriptions {
    pub fn load() -> Self {
        Self(serde_json::from_reader(GzDecoder::new(FILE)).expect("the generated file is JSON"))
    }

    /// What a field is for; with an empty name, the type itself.
    pub fn of(&self, definition: &str, field: &str) -> Option<&str> {
        let place = self.0.types.get(definition)?.get(field)?;
        self.0.texts.get(*place).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let all = Descriptions::load();
        assert!(all.of("io.k8s.api.core.v1.Pod", "").unwrap().starts_with("Pod is a collection of containers"));
        assert!(all.of("io.k8s.api.core.v1.PodSpec", "nodeName").is_some());
        assert_eq!(all.of("io.k8s.api.core.v1.PodSpec", "none"), None);
    }
}
