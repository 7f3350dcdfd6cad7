//! Volumes, and their mounts in containers.
use super::super::field::{Errors, Path, Tree};
use super::super::names;
use super::env;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The good volumes of a pod by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MAX_MODE: i64 = 0o777;
const MIN_TOKEN_SECONDS: i64 = 10 * 60;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub fn volumes<'a>(errors: &mut Errors, path: &Path<'_>, spec: &'a Value) -> Volumes<'a> {
    let mut good = Volumes::new();
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        let (at, name, before) = (path.index(i), volume.text("name"), errors.0.len());
        source(errors, &at, volume);
        match name {
            "" => errors.required(&at.child("name"), ""),
            _ => errors.each(&at.child("name"), name, names::dns_label(name)),
        }
        if good.contains_key(name) {
            errors.duplicate(&at.child("name"), name);
        }
        if errors.0.len() == before {
            good.insert(name, volume);
        }
    }
    good
}

fn source(errors: &mut Errors, at: &Path<'_>, volume: &Value) {
    let mut count = 0;
    let sources = volume.as_object().into_iter().flatten().filter(|(name, of)| *name != "name" && !of.is_null());
    for (name, of) in sources {
        count += 1;
        let path = at.child(name);
        if count > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        match name.as_str() {
            "emptyDir" => empty_dir(errors, &path, of),
            "hostPath" => host_path(errors, &path, of),
            "secret" => keyed(errors, &path, of, "secretName"),
            "configMap" => keyed(errors, &path, of, "name"),
            "persistentVolumeClaim" if of.text("claimName").is_empty() => {
                errors.required(&path.child("claimName"), "");
            }
            "nfs" => nfs(errors, &path, of),
            "downwardAPI" => downward(errors, &path, of),
            "projected" => projected(errors, &path, of),
            "csi" if of.text("driver").is_empty() => errors.required(&path.child("driver"), ""),
            "ephemeral" if !of.has("volumeClaimTemplate") => errors.required(&path.child("volumeClaimTemplate"), ""),
            _ => {}
        }
    }
    if count == 0 {
        errors.required(at, "must specify a volume type");
    }
}

fn empty_dir(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    if of.text("sizeLimit").starts_with('-') {
        errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    let target = of.text("path");
    if target.is_empty() {
        return errors.required(&path.child("path"), "");
    }
    no_backsteps(errors, &path.child("path"), target);
    if !HOST_PATH_TYPES.contains(&of.text("type")) {
        errors.unsupported(&path.child("type"), of.text("type"), HOST_PATH_TYPES);
    }
}

fn nfs(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    for name in ["server", "path"].iter().filter(|name| of.text(name).is_empty()) {
        errors.required(&path.child(name), "");
    }
    let target = of.text("path");
    if !target.is_empty() && !target.starts_with('/') {
        errors.invalid(&path.child("path"), target, "must be an absolute path");
    }
}

fn mode(errors: &mut Errors, path: &Path<'_>, of: &Value, name: &str) {
    if let Some(mode) = of.int(name).filter(|mode| !(0..=MAX_MODE).contains(mode)) {
        errors.invalid(&path.child(name), mode, FILE_MODE);
    }
}

/// A volume from a Secret or ConfigMap.
fn keyed(errors: &mut Errors, path: &Path<'_>, of: &Value, name: &str) {
    if of.text(name).is_empty() {
        errors.required(&path.child(name), "");
    }
    mode(errors, path, of, "defaultMode");
    items(errors, path, of);
}

fn items(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    let list = path.child("items");
    for (i, item) in of.list("items").iter().enumerate() {
        let at = list.index(i);
        for name in ["key", "path"].iter().filter(|name| item.text(name).is_empty()) {
            errors.required(&at.child(name), "");
        }
        non_reserved_path(errors, &at.child("path"), item.text("path"));
        mode(errors, &at, item, "mode");
    }
}

fn downward(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    mode(errors, path, of, "defaultMode");
    // Upstream leaves the index out of these paths.
    for file in of.list("items") {
        downward_file(errors, path, file);
    }
}

fn downward_file(errors: &mut Errors, path: &Path<'_>, file: &Value) {
    if file.text("path").is_empty() {
        errors.required(&path.child("path"), "");
    }
    non_reserved_path(errors, &path.child("path"), file.text("path"));
    if file.has("fieldRef") {
        env::field_ref(errors, &path.child("fieldRef"), &file["fieldRef"], env::VOLUME_FIELDS);
        if file.has("resourceFieldRef") {
            errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if file.has("resourceFieldRef") {
        env::resource_ref(errors, &path.child("resourceFieldRef"), &file["resourceFieldRef"], true);
    } else {
        errors.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    mode(errors, path, file, "mode");
}

fn projected(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    mode(errors, path, of, "defaultMode");
    let mut paths = BTreeSet::new();
    let list = path.child("sources");
    for (i, source) in of.list("sources").iter().enumerate() {
        let at = list.index(i);
        let kinds =
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        let present: Vec<&str> = kinds.into_iter().filter(|kind| source.has(kind)).collect();
        if present.len() > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
        for kind in present {
            projected_source(errors, &at.child(kind), &source[kind], kind);
            if kind == "serviceAccountToken" && source[kind].text("path").is_empty() {
                errors.required(&path.child("path"), "");
            }
            let files = source[kind].list("items").iter().map(|item| item.text("path"));
            let files = files.chain((kind == "serviceAccountToken").then(|| source[kind].text("path")));
            for file in files.filter(|file| !file.is_empty()) {
                if !paths.insert(file) {
                    let named = ["secret", "configMap"].contains(&kind);
                    let value = if named { source[kind].text("name") } else { file };
                    errors.invalid(path, value, "conflicting duplicate paths");
                }
            }
        }
    }
}

fn projected_source(errors: &mut Errors, path: &Path<'_>, of: &Value, kind: &str) {
    match kind {
        "secret" | "configMap" => {
            if of.text("name").is_empty() {
                errors.required(&path.child("name"), "");
            }
            items(errors, path, of);
        }
        "downwardAPI" => of.list("items").iter().for_each(|file| downward_file(errors, path, file)),
        "serviceAccountToken" => token(errors, path, of),
        _ => {}
    }
}

fn token(errors: &mut Errors, path: &Path<'_>, of: &Value) {
    let seconds = of.int("expirationSeconds").unwrap_or(0);
    if seconds < MIN_TOKEN_SECONDS {
        let text = "may not specify a duration less than 10 minutes";
        errors.invalid(&path.child("expirationSeconds"), seconds, text);
    }
    if seconds > MAX_TOKEN_SECONDS {
        let text = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(&path.child("expirationSeconds"), seconds, text);
    }
    if !of.text("path").is_empty() {
        non_reserved_path(errors, &path.child("path"), of.text("path"));
    }
}

fn no_backsteps(errors: &mut Errors, path: &Path<'_>, target: &str) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// A relative path that stays below.
pub fn descending_path(errors: &mut Errors, path: &Path<'_>, target: &str) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    no_backsteps(errors, path, target);
}

/// The same; names beginning with `..` are the kubelet's own.
fn non_reserved_path(errors: &mut Errors, path: &Path<'_>, target: &str) {
    descending_path(errors, path, target);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}

pub fn mounts(errors: &mut Errors, path: &Path<'_>, container: &Value, volumes: &Volumes<'_>) {
    let mut points = BTreeSet::new();
    for (i, mount) in container.list("volumeMounts").iter().enumerate() {
        let (at, name, point) = (path.index(i), mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        if !volumes.contains_key(name) {
            errors.not_found(&at.child("name"), name);
        }
        if point.is_empty() {
            errors.required(&at.child("mountPath"), "");
        }
        if !points.insert(point) {
            errors.invalid(&at.child("mountPath"), point, "must be unique");
        }
        for device in container.list("volumeDevices") {
            if device.text("name") == name {
                errors.invalid(&at.child("name"), name, "must not already exist in volumeDevices");
            }
            if device.text("devicePath") == point {
                let text = "must not already exist as a path in volumeDevices";
                errors.invalid(&at.child("mountPath"), point, text);
            }
        }
        sub_paths(errors, path, &at, mount);
        propagation(errors, &path.child("mountPropagation"), mount, container);
    }
}

fn sub_paths(errors: &mut Errors, path: &Path<'_>, at: &Path<'_>, mount: &Value) {
    let (plain, expanded) = (mount.text("subPath"), mount.text("subPathExpr"));
    if !plain.is_empty() {
        descending_path(errors, &path.child("subPath"), plain);
    }
    if expanded.is_empty() {
        return;
    }
    if !plain.is_empty() {
        errors.invalid(&at.child("subPathExpr"), expanded, "subPathExpr and subPath are mutually exclusive");
    }
    descending_path(errors, &path.child("subPathExpr"), expanded);
}

fn propagation(errors: &mut Errors, path: &Path<'_>, mount: &Value, container: &Value) {
    let value = mount.text("mountPropagation");
    errors.maybe_one_of(path, value, &["Bidirectional", "HostToContainer", "None"]);
    if value == "Bidirectional" && !container["securityContext"].flag("privileged") {
        errors.forbidden(path, "Bidirectional mount propagation is available only to privileged containers");
    }
}

pub fn devices(errors: &mut Errors, path: &Path<'_>, container: &Value, volumes: &Volumes<'_>) {
    let (mut seen_names, mut seen_paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in container.list("volumeDevices").iter().enumerate() {
        let (at, name, target) = (path.index(i), device.text("name"), device.text("devicePath"));
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !seen_names.insert(name) {
            errors.invalid(&at.child("name"), name, "must be unique");
        }
        match volumes.get(name) {
            None => errors.not_found(&at.child("name"), name),
            Some(volume) if volume.has("persistentVolumeClaim") || volume.has("ephemeral") => {}
            Some(_) => {
                let text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&at.child("name"), name, text);
            }
        }
        if target.is_empty() {
            errors.required(&at.child("devicePath"), "");
        } else if !seen_paths.insert(target) {
            errors.invalid(&at.child("devicePath"), target, "must be unique");
        }
        for mount in container.list("volumeMounts") {
            if mount.text("name") == name {
                errors.invalid(&at.child("name"), name, "must not already exist in volumeMounts");
            }
            if mount.text("mountPath") == target {
                let text = "must not already exist as a path in volumeMounts";
                errors.invalid(&at.child("devicePath"), target, text);
            }
        }
        if target.split('/').any(|part| part == "..") {
            errors.invalid(&at.child("devicePath"), target, "can not contain backsteps ('..')");
        }
    }
}
