//! The features that this version has, and their levels (KIP-584).

use tidemark_model::FeatureRange;

/// What brokers of one cluster have to agree on before any of them uses it: formats and requests
/// between them, by a level that goes up once all of them know it.
const TIDEMARK_VERSION: &str = "tidemark.version";

/// The newest level. Two builds of the same tree stand for two versions where an upgrade is tested.
const NEWEST: i16 = if cfg!(feature = "next-version") { 2 } else { 1 };

/// What a broker of this version can do, as it registers and tells it.
pub(crate) fn supported() -> Vec<FeatureRange> {
    vec![FeatureRange {
        name: TIDEMARK_VERSION.to_owned(),
        min: 1,
        max: NEWEST,
    }]
}
