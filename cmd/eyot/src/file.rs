//! The configuration file becomes flags, put before those of the command line so that these win. Its keys are
//! the flags' names; a list gives the flag once an item. An unknown key is an unknown flag, and said as one.
use anyhow::{Context, bail};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `argv` with the file's flags after the subcommand. The file must exist when it was named.
pub fn with_file(argv: Vec<OsString>, default: &Path) -> anyhow::Result<Vec<OsString>> {
    if argv.get(1).is_none_or(|command| command != "server" && command != "agent") {
        return Ok(argv);
    }
    let named = named(&argv).or_else(|| std::env::var_os("EYOT_CONFIG_FILE").map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| default.to_owned());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(argv),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let flags = flags(&text).with_context(|| path.display().to_string())?;
    let (program, rest) = argv.split_at(2);
    Ok([program, &flags, rest].concat())
}

/// The value of `--config` or `-c`.
fn named(argv: &[OsString]) -> Option<PathBuf> {
    let mut args = argv.iter().filter_map(|arg| arg.to_str());
    while let Some(arg) = args.next() {
        if arg == "--config" || arg == "-c" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    None
}

fn flags(text: &str) -> anyhow::Result<Vec<OsString>> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let value: Value = serde_saphyr::from_str(text).context("no YAML")?;
    let Value::Object(map) = value else { bail!("expected `flag: value` lines") };
    let mut flags = Vec::new();
    for (key, value) in map {
        let key = key.trim_end_matches('+');
        match value {
            Value::Array(items) => {
                for item in items {
                    flags.extend(flag(key, item)?);
                }
            }
            one => flags.extend(flag(key, one)?),
        }
    }
    Ok(flags)
}

fn flag(key: &str, value: Value) -> anyhow::Result<Option<OsString>> {
    Ok(match value {
        Value::Bool(true) => Some(format!("--{key}").into()),
        Value::Bool(false) | Value::Null => None,
        Value::String(text) => Some(format!("--{key}={text}").into()),
        Value::Number(number) => Some(format!("--{key}={number}").into()),
        Value::Array(_) | Value::Object(_) => bail!("{key}: expected one value or a list of values"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_flags() {
        let got = flags("https-listen-port: 7000\ntls-san:\n- a\n- b\ndisable-agent: true\n").unwrap();
        let mut got: Vec<_> = got.iter().map(|flag| flag.to_str().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, ["--disable-agent", "--https-listen-port=7000", "--tls-san=a", "--tls-san=b"]);
    }

    #[test]
    fn an_empty_file_says_nothing_and_nonsense_is_refused() {
        assert!(flags("# nothing\n").unwrap().is_empty());
        assert!(flags("- a list\n").is_err());
        assert!(flags("a: {b: c}\n").is_err());
    }

    #[test]
    fn a_named_file_must_be_there() {
        let argv = ["eyot", "server", "--config", "/nowhere"].map(OsString::from).to_vec();
        assert!(with_file(argv, Path::new("/nowhere")).is_err());
        let argv = ["eyot", "server"].map(OsString::from).to_vec();
        assert_eq!(with_file(argv.clone(), Path::new("/nowhere")).unwrap(), argv);
    }
}
