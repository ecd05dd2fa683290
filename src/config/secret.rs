//! Secrets that stand in no configuration file: they come from a file of their own, or from the service manager.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

const OPEN: &str = "${credential:";
const HIDDEN: &str = "***";

/// The text with each `${credential:NAME}` replaced by what the service manager keeps under that name (systemd.exec(5),
/// LoadCredential=). `key` is where the text stands.
///
/// # Errors
/// A credential that is not there, with the remedy.
pub fn with_credentials(text: &str, key: &str) -> Result<String, String> {
    filled(text, key, folder().as_deref()).map(|(whole, _)| whole)
}

/// The same of a program's arguments, with what must not be repeated of what the program says.
///
/// # Errors
/// As [`with_credentials`].
pub fn arguments_with_credentials(arguments: &[String], key: &str) -> Result<(Vec<String>, Secrets), String> {
    let (folder, mut secrets) = (folder(), Secrets::default());
    let mut filled_in = Vec::new();
    for argument in arguments {
        let (whole, mut found) = filled(argument, key, folder.as_deref())?;
        secrets.0.append(&mut found);
        filled_in.push(whole);
    }
    Ok((filled_in, secrets))
}

/// Whether a program's argument holds a secret, which the process list shows to every user.
pub fn holds_secret(argument: &str) -> bool {
    argument.contains(OPEN) || without_passwords(argument) != argument
}

/// What a program was given in secret.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// A line of the program without them, and without passwords in addresses.
    pub fn kept_out(&self, line: &str) -> String {
        let filled_in = self.0.iter().filter(|secret| !secret.is_empty());
        without_passwords(&filled_in.fold(line.to_owned(), |line, secret| line.replace(secret, HIDDEN)))
    }
}

/// Addresses without what stands before their `@`.
fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_whitespace() || "/?#\"'".contains(c)).unwrap_or(part.len());
        let host = part[..end].rfind('@').filter(|at| part[..*at].contains(':'));
        whole += "://";
        whole += &host.map_or_else(|| part.to_owned(), |at| format!("{HIDDEN}{}", &part[at..]));
    }
    whole
}

fn folder() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
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

/// The text with its credentials, and these by themselves.
fn filled(text: &str, key: &str, folder: Option<&Path>) -> Result<(String, Vec<String>), String> {
    let mut secrets = Vec::new();
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
        let secret = secret.trim_end_matches('\n');
        whole = whole + secret + rest;
        secrets.push(secret.to_owned());
    }
    Ok((whole, secrets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_put_into_its_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("door"), "s3cret\n").unwrap();
        let filled = |text: &str| filled(text, "camera.command", Some(dir.path()));
        let (whole, secrets) = filled("rtsp://cam:${credential:door}@10.0.0.5/1").unwrap();
        assert_eq!((whole.as_str(), &secrets[..]), ("rtsp://cam:s3cret@10.0.0.5/1", &["s3cret".to_owned()][..]));
        assert_eq!(filled("-i").unwrap(), ("-i".into(), vec![]));
        for wrong in ["${credential:window}", "${credential:../door}", "${credential:door", "${credential:}"] {
            let error = filled(wrong).unwrap_err();
            assert!(error.contains("camera.command") && !error.contains("s3cret"), "{error}");
        }
        assert!(super::filled("${credential:door}", "mqtt.password", None).unwrap_err().contains("systemd"));
    }

    #[test]
    fn what_a_program_says_is_repeated_without_secrets() {
        let secrets = Secrets(vec!["tok/en".into(), String::new()]);
        for (said, repeated) in [
            ("rtsp://cam:s3c@ret@10.0.0.5/1: Connection refused", "rtsp://***@10.0.0.5/1: Connection refused"),
            ("http://10.0.0.5/snap?t=tok/en&x", "http://10.0.0.5/snap?t=***&x"),
            ("rtsp://10.0.0.5:554/a@b, http://[::1]:80", "rtsp://10.0.0.5:554/a@b, http://[::1]:80"),
            ("a 'rtsp://u:p@h' and \"http://v:q@i\"", "a 'rtsp://***@h' and \"http://***@i\""),
            ("frame=1 :// ü@", "frame=1 :// ü@"),
        ] {
            assert_eq!(secrets.kept_out(said), repeated);
        }
        assert!(holds_secret("rtsp://cam:${credential:door}@h") && holds_secret("rtsp://u:p@h/1"));
        assert!(!holds_secret("rtsp://10.0.0.5:554/1") && !holds_secret("-i"));
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
