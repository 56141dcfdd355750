//! How a store is opened by its address: `s3://`, `gs://`, `az://` or `file://`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use crate::bucket::{BucketOptions, REQUEST_TIMEOUT};
use crate::error::TierError;

/// Opens the store that `address` names; gives the prefix within it, too. Asks nothing of it yet.
///
/// # Errors
/// The address or an option cannot be used.
pub(crate) fn open(
    address: &str,
    options: &BucketOptions,
) -> Result<(Arc<dyn ObjectStore>, Key), TierError> {
    let wrong = |reason: String| TierError::Url {
        url: address.to_owned(),
        reason,
    };
    let url: Url = address.parse().map_err(|error| {
        wrong(format!(
            "{error}; write s3://bucket/prefix, gs://…, az://… or file:///directory"
        ))
    })?;
    let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|_| {
        wrong(format!(
            "{} is not known; write s3://bucket/prefix, gs://…, az://… or file:///directory",
            url.scheme()
        ))
    })?;
    let refused = |error: object_store::Error| wrong(with_causes(&error));
    let (store, prefix): (Arc<dyn ObjectStore>, Key) = match scheme {
        ObjectStoreScheme::Local => {
            let dir = url
                .to_file_path()
                .map_err(|()| wrong("it names no directory".to_owned()))?;
            (
                local(&dir).map_err(|error| wrong(error.to_string()))?,
                Key::default(),
            )
        }
        ObjectStoreScheme::AmazonS3 => {
            use object_store::aws::AmazonS3Builder;
            let mut builder = AmazonS3Builder::from_env().with_url(address);
            for (key, value) in known(options) {
                builder = builder.with_config(key, value);
            }
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            if let Some(region) = &options.region {
                builder = builder.with_region(region);
            }
            let store = builder
                .with_client_options(client(options))
                .with_retry(retries())
                .build();
            (Arc::new(store.map_err(refused)?), path)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(address);
            for (key, value) in known(options) {
                builder = builder.with_config(key, value);
            }
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint);
            }
            let store = builder
                .with_client_options(client(options))
                .with_retry(retries())
                .build();
            (Arc::new(store.map_err(refused)?), path)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            use object_store::azure::MicrosoftAzureBuilder;
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(address);
            for (key, value) in known(options) {
                builder = builder.with_config(key, value);
            }
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            let store = builder
                .with_client_options(client(options))
                .with_retry(retries())
                .build();
            (Arc::new(store.map_err(refused)?), path)
        }
        _ => {
            return Err(wrong(format!(
                "{} cannot hold logs; write s3://bucket/prefix, gs://…, az://… or file:///directory",
                url.scheme()
            )));
        }
    };
    Ok((store, prefix))
}

/// A directory that is there, or will be.
#[allow(
    clippy::disallowed_methods,
    reason = "a bucket in a directory is a store of its own, which no simulation uses"
)]
fn local(dir: &PathBuf) -> Result<Arc<dyn ObjectStore>, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(dir)?;
    let store = object_store::local::LocalFileSystem::new_with_prefix(dir)?;
    Ok(Arc::new(
        store.with_fsync(true).with_automatic_cleanup(false),
    ))
}

/// An error with what caused it: what is to be done is often at the end.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The credentials that a store knows, by its own keys.
fn known<K: std::str::FromStr>(options: &BucketOptions) -> impl Iterator<Item = (K, &String)> {
    let all = options.credentials.iter();
    all.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
}

fn client(options: &BucketOptions) -> ClientOptions {
    let plain = options
        .endpoint
        .as_ref()
        .is_some_and(|endpoint| endpoint.starts_with("http://"));
    // All of TLS here is by the same library; somebody may have said so already.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::trace!("the cryptography was chosen before");
    }
    ClientOptions::new()
        .with_allow_http(plain)
        .with_connect_timeout(Duration::from_secs(5))
        // Requests have their own, by what they carry.
        .with_timeout_disabled()
}

fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 3,
        retry_timeout: REQUEST_TIMEOUT,
        ..RetryConfig::default()
    }
}
