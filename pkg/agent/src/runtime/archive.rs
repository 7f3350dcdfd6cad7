//! Builds image archives in the OCI layout (image-spec v1.1, image-layout.md) from files in memory.
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One executable file of the image.
pub struct File<'a> {
    /// Without the leading slash.
    pub path: &'a str,
    pub mode: u32,
    pub data: &'a [u8],
}

/// An image of one layer.
pub struct Image<'a> {
    /// Full reference, `host/path:tag`.
    pub reference: &'a str,
    pub files: &'a [File<'a>],
    pub entrypoint: &'a [&'a str],
}

/// The image as a tar archive that `ctr images import` takes. The same input gives the same bytes.
pub fn oci_archive(image: &Image<'_>) -> io::Result<Vec<u8>> {
    let layer = layer(image.files)?;
    let config = config(image, &digest(&layer)).to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let index = index(image.reference, &manifest).to_string().into_bytes();
    let mut entries = BTreeMap::from([
        ("index.json".to_owned(), index),
        ("oci-layout".to_owned(), json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()),
    ]);
    entries.extend([layer, config, manifest].map(|blob| (format!("blobs/sha256/{}", hex(&blob)), blob)));
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data) in &entries {
        append(&mut tar, path, 0o644, data)?;
    }
    tar.into_inner()
}

fn layer(files: &[File<'_>]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        append(&mut tar, file.path, file.mode, file.data)?;
    }
    tar.into_inner()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, path, data)
}

fn config(image: &Image<'_>, diff_id: &str) -> Value {
    json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": image.entrypoint},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
}

fn index(reference: &str, manifest: &[u8]) -> Value {
    let mut entry = descriptor(MANIFEST, manifest);
    entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
    entry["annotations"] = json!({
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference,
    });
    json!({"schemaVersion": 2, "manifests": [entry]})
}

fn descriptor(media_type: &str, data: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(data), "size": data.len()})
}

fn digest(data: &[u8]) -> String {
    format!("sha256:{}", hex(data))
}

/// The SHA-256 of `data` in hexadecimal.
pub(super) fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Go's name of this machine's architecture, which image platforms use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.expect("entry");
            let mut data = Vec::new();
            entry.read_to_end(&mut data).expect("data");
            (entry.path().expect("path").display().to_string(), data)
        };
        archive.entries().expect("tar").map(read).collect()
    }

    #[test]
    fn every_descriptor_names_a_blob_of_that_digest_and_size() {
        let file = File { path: "pause", mode: 0o755, data: b"program" };
        let image = Image { reference: "eyot.dev/pause:1", files: &[file], entrypoint: &["/pause"] };
        let archive = oci_archive(&image).expect("archive");
        assert_eq!(archive, oci_archive(&image).expect("archive"), "the same input gives the same bytes");
        let entries = entries(&archive);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("digest");
            let data = &entries[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(format!("sha256:{}", hex(data)), digest);
            assert_eq!(descriptor["size"], data.len());
            data.clone()
        };
        let index: Value = serde_json::from_slice(&entries["index.json"]).expect("index");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).expect("manifest");
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).expect("config");
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex(&layer)));
        assert_eq!(self::entries(&layer)["pause"], b"program");
        assert_eq!(config["config"]["Entrypoint"][0], "/pause");
    }
}
