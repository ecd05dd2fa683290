//! Secrets that stand in no configuration file: they come from a file of their own, or from the service manager.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The text with each `${credential:NAME}` replaced by what the service manager keeps under that name (systemd.exec(5),
/// LoadCredential=). `key` is where the text stands.
///
/// # Errors
/// A credential that is not there, with the remedy.
pub fn with_credentials(text: &str, key: &str) -> Result<String, String> {
    let folder = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    filled(text, key, folder.as_deref())
}

/// A secret: the contents of its file, if one is given, else the text itself with its credentials. `key` is the text's.
///
/// # Errors
/// A file that cannot be read, or a credential that is not there.
pub fn secret(text: &str, file: &Path, key: &str) -> Result<String, String> {
    if file.as_os_str().is_empty() {
        return with_credentials(text, key);
    }
    fs::read_to_string(file)
        .map(|secret| secret.trim_end_matches('\n').to_owned())
        .map_err(|error| format!("{key}_file: {}: {error}; the user facelatch must be able to read it", file.display()))
}

fn filled(text: &str, key: &str, folder: Option<&Path>) -> Result<String, String> {
    const OPEN: &str = "${credential:";
    let mut parts = text.split(OPEN);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').ok_or_else(|| format!("{key}: \"{OPEN}\" without a }}"))?;
        let missing = |problem: &str| {
            format!(
                "{key}: credential {name} {problem}; give the service LoadCredential={name}:FILE (an example is network.conf)"
            )
        };
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(missing("is no name"));
        }
        let folder = folder.ok_or_else(|| missing("is not there: not started by systemd"))?;
        let secret =
            fs::read_to_string(folder.join(name)).map_err(|error| missing(&format!("cannot be read: {error}")))?;
        whole = whole + secret.trim_end_matches('\n') + rest;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_put_into_its_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("door"), "s3cret\n").unwrap();
        let filled = |text: &str| filled(text, "camera.command", Some(dir.path()));
        assert_eq!(filled("rtsp://cam:${credential:door}@10.0.0.5/1").unwrap(), "rtsp://cam:s3cret@10.0.0.5/1");
        assert_eq!(filled("-i").unwrap(), "-i");
        for wrong in ["${credential:window}", "${credential:../door}", "${credential:door", "${credential:}"] {
            let error = filled(wrong).unwrap_err();
            assert!(error.contains("camera.command") && !error.contains("s3cret"), "{error}");
        }
        assert!(super::filled("${credential:door}", "mqtt.password", None).unwrap_err().contains("systemd"));
    }

    #[test]
    fn a_file_goes_before_the_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        assert!(secret("", &file, "mqtt.password").unwrap_err().starts_with("mqtt.password_file: "));
        fs::write(&file, "s3cret\n").unwrap();
        assert_eq!(secret("", &file, "mqtt.password").unwrap(), "s3cret");
        assert_eq!(secret("plain", Path::new(""), "mqtt.password").unwrap(), "plain");
    }
}
