//! Credentials for S3 from a file, as the tools of AWS keep them (`AWS_SHARED_CREDENTIALS_FILE`):
//! read again while the broker runs, so that new ones need no restart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tidemark_env::clock::{self, Instant};

/// The file is looked at again after so long.
const AGAIN: Duration = Duration::from_secs(10);

/// Credentials of a file.
#[derive(Debug)]
pub(crate) struct FromFile {
    path: PathBuf,
    profile: String,
    last: Mutex<Option<Read>>,
}

#[derive(Debug, Clone)]
struct Read {
    at: Instant,
    credential: Arc<AwsCredential>,
}

impl FromFile {
    /// Those that the environment names, unless it holds credentials itself.
    pub(crate) fn of_environment() -> Option<FromFile> {
        if std::env::var_os("AWS_ACCESS_KEY_ID").is_some() {
            return None;
        }
        let path = std::env::var_os("AWS_SHARED_CREDENTIALS_FILE")?;
        let profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
        Some(FromFile::new(path.into(), profile))
    }

    fn new(path: PathBuf, profile: String) -> FromFile {
        FromFile {
            path,
            profile,
            last: Mutex::default(),
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Read>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a small file that people name, of a store that no simulation uses"
    )]
    fn read(&self) -> Result<AwsCredential, String> {
        let text = std::fs::read_to_string(&self.path);
        let text = text.map_err(|error| format!("{}: {error}", self.path.display()))?;
        parse(&text, &self.profile).map_err(|why| format!("{}: {why}", self.path.display()))
    }
}

#[async_trait]
impl CredentialProvider for FromFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let last = self.last().clone();
        let now = clock::monotonic();
        if let Some(last) = &last
            && now.duration_since(last.at) < AGAIN
        {
            return Ok(Arc::clone(&last.credential));
        }
        let credential = match (self.read(), last) {
            (Ok(read), _) => Arc::new(read),
            // It may be being written: the ones from before are as good as none, or better.
            (Err(why), Some(last)) => {
                tracing::warn!(why, "the credentials of the bucket stay as they were");
                last.credential
            }
            (Err(why), None) => {
                return Err(object_store::Error::Generic {
                    store: "S3",
                    source: why.into(),
                });
            }
        };
        let read = Read {
            at: now,
            credential: Arc::clone(&credential),
        };
        *self.last() = Some(read);
        Ok(credential)
    }
}

/// The credentials of `profile` in the text of a file.
fn parse(text: &str, profile: &str) -> Result<AwsCredential, String> {
    let mut within = false;
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
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
        let value = Some(value.trim().to_owned());
        match name.trim() {
            "aws_access_key_id" => key_id = value,
            "aws_secret_access_key" => secret_key = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential {
            key_id,
            secret_key,
            token,
        }),
        _ => Err(format!(
            "it has no aws_access_key_id and aws_secret_access_key below [{profile}]"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# ours\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n\
                        [other]\naws_access_key_id=C\naws_secret_access_key = D\n\
                        aws_session_token = E\n";

    #[test]
    fn a_profile_is_found() {
        let found = parse(TEXT, "default").unwrap();
        assert_eq!(
            (found.key_id.as_str(), found.secret_key.as_str()),
            ("A", "B=")
        );
        assert_eq!(found.token, None);
        let found = parse(TEXT, "other").unwrap();
        assert_eq!(found.token.as_deref(), Some("E"));
        let why = parse(TEXT, "third").unwrap_err();
        assert!(why.contains("[third]"), "{why}");
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the file is another program's")]
    fn a_file_that_changes_is_read_again_and_a_broken_one_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let file = FromFile::new(path.clone(), "default".to_owned());
            let key_id = async || {
                file.get_credential()
                    .await
                    .map(|found| found.key_id.clone())
            };
            assert!(key_id().await.is_err(), "there is no file");
            write(TEXT);
            assert_eq!(key_id().await.unwrap(), "A");
            write(&TEXT.replace("= A", "= F"));
            assert_eq!(key_id().await.unwrap(), "A", "not at every request");
            clock::sleep(AGAIN).await;
            assert_eq!(key_id().await.unwrap(), "F");
            write("[default]\n");
            clock::sleep(AGAIN).await;
            assert_eq!(key_id().await.unwrap(), "F", "what was good stays");
        });
    }
}
