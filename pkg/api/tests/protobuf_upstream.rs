//! Objects in the forms in which upstream's own encoders write them.
use api::stored::Stored;
use base64::Engine;
use eyot_api as api;
use serde_json::Value;
use std::path::Path;

/// Names the directory with upstream's corpus: of each kind `X.json`, `X.yaml` and `X.pb`.
const CORPUS: &str = "EYOT_PROTOBUF_CORPUS";

/// Values out of the store of an unmodified API server (v1.36.3), with what it answered of them.
#[test]
fn stored_objects_are_what_the_api_server_shows() {
    #[derive(serde::Deserialize)]
    struct Row {
        key: String,
        stored: String,
        object: Value,
    }
    let rows: Vec<Row> = serde_json::from_str(include_str!("fixtures/stored.json")).unwrap();
    assert!(rows.len() > 5);
    for Row { key, stored, object } in rows {
        let bytes = base64::engine::general_purpose::STANDARD.decode(stored).unwrap();
        assert!(api::stored::is_foreign(&bytes), "{key}");
        let Stored::Read(ours) = api::stored::read(&bytes).unwrap() else { panic!("{key} is read") };
        let mut found = Vec::new();
        compare("", &ours, &object, &mut found);
        assert!(found.is_empty(), "{key}: {}", found.join("\n"));
    }
}

/// Each object of upstream's corpus says the same in protobuf, JSON and YAML. `tests/upstream/protobuf.sh` runs this.
#[test]
#[ignore = "needs upstream's corpus"]
fn corpus() {
    let dir = std::env::var_os(CORPUS).unwrap_or_else(|| panic!("{CORPUS} names the corpus"));
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // An event of a watch is not in the envelope of objects.
    let object = |path: &Path| !path.to_string_lossy().ends_with("WatchEvent.pb");
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pb") && object(path));
    files.sort();
    assert!(!files.is_empty());
    let failures: Vec<String> = files.iter().filter_map(|path| differs(path)).collect();
    println!("{} of {} objects are the same in all three forms", files.len() - failures.len(), files.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn differs(path: &Path) -> Option<String> {
    let name = path.file_stem().unwrap().to_string_lossy();
    let ours = match api::protobuf::to_json(&std::fs::read(path).unwrap()) {
        Ok(object) => object,
        Err(error) => return Some(format!("{name}: {error}")),
    };
    let json: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
    let yaml: Value = serde_saphyr::from_slice(&std::fs::read(path.with_extension("yaml")).unwrap()).unwrap();
    let mut found = Vec::new();
    compare("", &ours, &json, &mut found);
    compare("", &yaml, &json, &mut found);
    (!found.is_empty()).then(|| format!("{name}: {}", found.join("; ")))
}

fn compare(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            for name in names {
                let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                compare(&format!("{path}.{name}"), &of(ours), &of(theirs), found);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            ours.iter().zip(theirs).enumerate().for_each(|(n, (a, b))| compare(&format!("{path}[{n}]"), a, b, found));
        }
        _ if ours == theirs => {}
        _ => found.push(format!("{path} is {ours}, not {theirs}")),
    }
}
