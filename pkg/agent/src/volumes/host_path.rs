//! The types of hostPath volumes (Kubernetes documentation, "Volumes: hostPath volume types").
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Makes or checks what the type asks for.
pub fn check(path: &str, kind: &str) -> Result<(), String> {
    let at = Path::new(path);
    let failed = |error: std::io::Error| format!("{path}: {error}");
    match kind {
        "DirectoryOrCreate" if !at.exists() => {
            fs::create_dir_all(at).map_err(failed)?;
            fs::set_permissions(at, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        "FileOrCreate" if !at.exists() => {
            OpenOptions::new().create(true).append(true).open(at).map_err(failed)?;
            fs::set_permissions(at, fs::Permissions::from_mode(0o644)).map_err(failed)?;
        }
        _ => {}
    }
    let wanted = match kind {
        "Directory" | "DirectoryOrCreate" => "a directory",
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        _ => return Ok(()),
    };
    let found = fs::metadata(at).map(|metadata| metadata.file_type());
    let right = found.is_ok_and(|found| match kind {
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        _ => found.is_block_device(),
    });
    if right { Ok(()) } else { Err(format!("hostPath type check failed: {path} is not {wanted}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().expect("directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        assert!(check(&path("none"), "").is_ok());
        let refused = check(&path("none"), "Directory").expect_err("is not there");
        assert!(refused.ends_with("is not a directory"), "{refused}");
        assert!(check(&path("d/e"), "DirectoryOrCreate").is_ok());
        assert!(check(&path("d/e"), "File").is_err());
        assert!(check(&path("f"), "FileOrCreate").is_ok());
        assert!(check("/dev/null", "CharDevice").is_ok());
    }
}
