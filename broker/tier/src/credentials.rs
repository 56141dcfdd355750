//! Credentials for the store in files that may change while the broker runs: those of a directory,
//! or, as the tools of AWS keep them, those of a profile in a file (`AWS_SHARED_CREDENTIALS_FILE`).
//! Whoever holds a bucket reads them again now and then, and has it go on with what has changed
//! ([`crate::Bucket::reopen`]).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A service account's key of Google is a few KiB.
const MOST_CREDENTIAL_BYTES: u64 = 64 * 1024;

/// Credentials by the names that they have in the environment, such as `AWS_ACCESS_KEY_ID`.
pub type Credentials = BTreeMap<String, String>;

/// Where credentials are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialFiles {
    /// Nowhere: those of the environment do not change.
    None,
    /// Files, each named as in the environment; none where there is no such directory.
    Dir(PathBuf),
    /// A profile in a file of AWS.
    Profile {
        /// The file.
        file: PathBuf,
        /// The profile's name.
        profile: String,
    },
}

impl CredentialFiles {
    /// Those in `dir`; without one what the environment names, unless it holds credentials itself.
    pub fn of(dir: Option<&str>) -> CredentialFiles {
        if let Some(dir) = dir {
            return CredentialFiles::Dir(dir.into());
        }
        let held = std::env::var_os("AWS_ACCESS_KEY_ID").is_some();
        match std::env::var_os("AWS_SHARED_CREDENTIALS_FILE").filter(|_| !held) {
            None => CredentialFiles::None,
            Some(file) => CredentialFiles::Profile {
                file: file.into(),
                profile: std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned()),
            },
        }
    }

    /// What they are now. Blocks.
    ///
    /// # Errors
    /// One of them cannot be read, is far larger than a credential, or lacks what it should have;
    /// the file is named.
    pub fn read(&self) -> io::Result<Credentials> {
        match self {
            CredentialFiles::None => Ok(Credentials::new()),
            CredentialFiles::Dir(dir) => in_dir(dir).map_err(|error| named(dir, &error)),
            CredentialFiles::Profile { file, profile } => {
                let found = text_of(file);
                let found = found.and_then(|text| in_profile(&text, profile));
                found.map_err(|error| named(file, &error))
            }
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[allow(
    clippy::disallowed_methods,
    reason = "files of people, and not of the log: as certificates they are not simulated"
)]
fn text_of(path: &Path) -> io::Result<String> {
    if path.metadata()?.len() > MOST_CREDENTIAL_BYTES {
        return Err(io::Error::other("it is too large for credentials"));
    }
    std::fs::read_to_string(path)
}

#[allow(clippy::disallowed_methods, reason = "as above")]
fn in_dir(dir: &Path) -> io::Result<Credentials> {
    let mut found = Credentials::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        // Kubernetes keeps the versions of a Secret in hidden directories, and links to them.
        let Some(name) = name.filter(|name| !name.starts_with('.') && path.is_file()) else {
            continue;
        };
        let text = text_of(&path).map_err(|error| named(&path, &error))?;
        found.insert(name, text.trim().to_owned());
    }
    Ok(found)
}

/// The credentials of `profile` in the text of a file.
fn in_profile(text: &str, profile: &str) -> io::Result<Credentials> {
    let mut within = false;
    let mut found = Credentials::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            within = name.trim() == profile;
            continue;
        }
        if !within || line.starts_with(['#', ';']) {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        let name = name.trim();
        if [
            "aws_access_key_id",
            "aws_secret_access_key",
            "aws_session_token",
        ]
        .contains(&name)
        {
            found.insert(name.to_ascii_uppercase(), value.trim().to_owned());
        }
    }
    let whole = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    match whole.iter().all(|name| found.contains_key(*name)) {
        true => Ok(found),
        false => Err(io::Error::other(format!(
            "it has no aws_access_key_id and aws_secret_access_key below [{profile}]"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# ours\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n\
                        [other]\naws_access_key_id=C\naws_secret_access_key = D\n\
                        aws_session_token = E\nregion = x\n";

    fn pairs(found: &Credentials) -> Vec<(&str, &str)> {
        let pairs = found.iter();
        pairs.map(|(name, value)| (&name[..], &value[..])).collect()
    }

    #[test]
    fn a_profile_is_found() {
        let found = in_profile(TEXT, "default").unwrap();
        let expected = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "B=")];
        assert_eq!(pairs(&found), expected);
        let found = in_profile(TEXT, "other").unwrap();
        assert_eq!(found["AWS_SESSION_TOKEN"], "E");
        assert_eq!(found.len(), 3);
        let why = in_profile(TEXT, "third").unwrap_err().to_string();
        assert!(why.contains("[third]"), "{why}");
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the files are another program's")]
    fn files_are_read_as_they_are_now_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        let profile = CredentialFiles::Profile {
            file: file.clone(),
            profile: "default".to_owned(),
        };
        let why = profile.read().unwrap_err().to_string();
        assert!(why.contains("credentials"), "{why}");
        std::fs::write(&file, TEXT).unwrap();
        assert_eq!(profile.read().unwrap()["AWS_ACCESS_KEY_ID"], "A");
        std::fs::write(&file, TEXT.replace("= A", "= F")).unwrap();
        assert_eq!(profile.read().unwrap()["AWS_ACCESS_KEY_ID"], "F");
        std::fs::write(&file, "[default]\n").unwrap();
        assert!(profile.read().is_err());

        let files = CredentialFiles::of(dir.path().join("none").to_str());
        assert_eq!(files.read().unwrap(), Credentials::new());
        let files = CredentialFiles::of(dir.path().to_str());
        std::fs::remove_file(&file).unwrap();
        std::fs::write(dir.path().join("AWS_ACCESS_KEY_ID"), "G\n").unwrap();
        std::fs::write(dir.path().join(".hidden"), "H").unwrap();
        assert_eq!(pairs(&files.read().unwrap()), [("AWS_ACCESS_KEY_ID", "G")]);
        let large = "x".repeat(100_000);
        std::fs::write(dir.path().join("AWS_SECRET_ACCESS_KEY"), large).unwrap();
        let why = files.read().unwrap_err().to_string();
        assert!(why.contains("AWS_SECRET_ACCESS_KEY"), "{why}");
    }
}
