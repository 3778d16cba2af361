//! The policies in force, and the document by which those of a cluster are changed while it runs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use foghorn_core::policy::{Policies, Policy, PolicyError};

/// Most bytes of a document: what a process reads, checks and looks through has a bound.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Most policies of a document. Each is looked at for every event that none before it matches.
pub const POLICIES_MAX: usize = 1000;
/// Of the document's form.
const VERSION: u32 = 1;

/// The policies in force. Clones share them; [`set`](Self::set) holds for every clone from the next event, page or
/// stream looked at.
#[derive(Debug, Clone)]
pub struct SharedPolicies(Arc<watch::Sender<Arc<Policies>>>);

impl SharedPolicies {
    /// The policies now.
    pub fn get(&self) -> Arc<Policies> {
        self.0.borrow().clone()
    }

    /// Replaces them; nothing happens when they are the same.
    pub fn set(&self, policies: Policies) {
        self.0.send_if_modified(|held| {
            let differ = **held != policies;
            if differ {
                *held = Arc::new(policies);
            }
            differ
        });
    }

    /// Changes whenever they do.
    pub fn changes(&self) -> watch::Receiver<Arc<Policies>> {
        self.0.subscribe()
    }
}

impl Default for SharedPolicies {
    fn default() -> Self {
        Policies::default().into()
    }
}

impl From<Policies> for SharedPolicies {
    fn from(policies: Policies) -> Self {
        Arc::new(policies).into()
    }
}

impl From<Arc<Policies>> for SharedPolicies {
    fn from(policies: Arc<Policies>) -> Self {
        SharedPolicies(Arc::new(watch::Sender::new(policies)))
    }
}

/// All policies of a cluster, one value, so that they change together: `{"version": 1, "policies": [{"pattern": …}]}`,
/// each as a `[[policy]]` of the configuration. What is in one goes together, and is no more than
/// [`POLICIES_MAX`] and [`DOCUMENT_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Vec<Policy>);

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    policies: Vec<Policy>,
}

/// What is written in any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is too long.
    #[error("it takes {0} bytes, more than {DOCUMENT_BYTES_MAX}; write wider patterns")]
    Bytes(usize),
    /// There are too many.
    #[error("it has {0} policies, more than {POLICIES_MAX}; write wider patterns")]
    Count(usize),
    /// Another version wrote it.
    #[error("it is of version {0}, this binary knows version {VERSION}; run one version of Foghorn")]
    Version(u32),
    /// It isn't one.
    #[error("it can't be read: {0}")]
    Malformed(String),
    /// A policy is wrong, or two don't go together.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Document {
    /// These policies, checked like those of a configuration.
    pub fn new(policies: Vec<Policy>) -> Result<Self, DocumentError> {
        // First, because each is compared with each.
        if policies.len() > POLICIES_MAX {
            return Err(DocumentError::Count(policies.len()));
        }
        Policies::new(policies.clone())?;
        let document = Document(policies);
        match document.to_bytes().len() {
            bytes if bytes > DOCUMENT_BYTES_MAX => Err(DocumentError::Bytes(bytes)),
            _ => Ok(document),
        }
    }

    /// What was written.
    pub fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::Bytes(bytes.len()));
        }
        let malformed = |error: serde_json::Error| DocumentError::Malformed(error.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(DocumentError::Version(version));
        }
        let Written { policies, .. } = serde_json::from_slice(bytes).map_err(malformed)?;
        Document::new(policies)
    }

    /// As it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let written = Written { version: VERSION, policies: self.0.clone() };
        // Of strings, numbers and words alone: there is nothing in it that JSON hasn't.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// What is in it, in the order in which it was written.
    pub fn policies(&self) -> &[Policy] {
        &self.0
    }

    /// The same, ready for use.
    pub fn into_policies(self) -> Result<Policies, PolicyError> {
        Policies::new(self.0)
    }
}

#[cfg(test)]
mod tests {
    use foghorn_core::pattern::Pattern;
    use foghorn_core::policy::Access;

    use super::*;

    fn policy(pattern: &str) -> Policy {
        Policy::new(Pattern::parse(pattern).unwrap())
    }

    #[test]
    fn what_was_written_is_read_again_and_nothing_else_is() {
        let document =
            Document::new(vec![Policy { access: Some(Access::Public), ..policy("news.>") }, policy("a")]);
        let document = document.unwrap();
        assert_eq!(Document::read(&document.to_bytes()).unwrap(), document);
        let why = |text: &str| Document::read(text.as_bytes()).unwrap_err().to_string();
        for (text, words) in [
            ("", "can't be read"),
            (r#"{"policies":[]}"#, "version"),
            (r#"{"version":2,"rules":[]}"#, "version 2, this binary knows version 1"),
            (r#"{"version":1,"policies":[],"more":1}"#, "more"),
            (r#"{"version":1,"policies":[{"pattern":"a","acess":"public"}]}"#, "acess"),
            (r#"{"version":1,"policies":[{"pattern":"a..b"}]}"#, "can't be read"),
            (r#"{"version":1,"policies":[{"pattern":"a.*"},{"pattern":"*.b"}]}"#, "both match some channels"),
            (r#"{"version":1,"policies":[{"pattern":"a","metric_types":["x,y"]}]}"#, "metric_types"),
        ] {
            assert!(why(text).contains(words), "{text}: {}", why(text));
        }
    }

    #[test]
    fn a_document_has_a_bound_in_policies_and_in_bytes() {
        let many = |count: usize| (0..count).map(|n| policy(&format!("c.{n}"))).collect::<Vec<_>>();
        assert!(Document::new(many(POLICIES_MAX)).is_ok());
        assert_eq!(Document::new(many(POLICIES_MAX + 1)), Err(DocumentError::Count(POLICIES_MAX + 1)));
        let long = |n: usize| Policy {
            metric_types: (0..32).map(|t| format!("{t:0100}")).collect(),
            ..policy(&format!("c.{n}"))
        };
        assert!(matches!(Document::new((0..100).map(long).collect()), Err(DocumentError::Bytes(_))));
        assert!(matches!(Document::read(&vec![b' '; DOCUMENT_BYTES_MAX + 1]), Err(DocumentError::Bytes(_))));
    }

    #[test]
    fn the_same_policies_again_are_no_change() {
        let shared = SharedPolicies::default();
        let mut changes = shared.clone().changes();
        shared.set(Policies::default());
        assert!(!changes.has_changed().unwrap());
        shared.set(Policies::new(vec![policy("a")]).unwrap());
        assert!(changes.has_changed().unwrap());
        assert_eq!(changes.borrow_and_update().all().len(), 2);
    }
}
