//! Who wrote what: the API server's own log of it.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value as Json;
use tests::Scratch;

const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  verbs: [create, update, patch, delete]
- level: None
";

pub(crate) struct Audit {
    policy: PathBuf,
    log: PathBuf,
}

/// A write of a replica of the operator, but for its lease.
#[derive(Debug)]
pub(crate) struct Write {
    /// The replica, by the name it acts as.
    pub(crate) who: String,
    /// The verb and what it was about.
    #[allow(dead_code, reason = "shown when a test fails")]
    pub(crate) what: String,
}

impl Audit {
    pub(crate) fn new(dir: &Scratch) -> Result<Self> {
        dir.write("audit-policy.yaml", POLICY)?;
        Ok(Self {
            policy: dir.path().join("audit-policy.yaml"),
            log: dir.path().join("audit.log"),
        })
    }

    /// Flags of kube-apiserver.
    pub(crate) fn flags(&self) -> [String; 3] {
        [
            format!("--audit-policy-file={}", self.policy.display()),
            format!("--audit-log-path={}", self.log.display()),
            "--audit-log-mode=blocking".to_owned(),
        ]
    }

    /// What replicas wrote, in order. A write that was refused is none.
    pub(crate) fn writes(&self) -> Result<Vec<Write>> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok(lines.filter_map(|event: Json| write(&event)).collect())
    }
}

fn write(event: &Json) -> Option<Write> {
    let who = event["impersonatedUser"]["username"].as_str()?;
    let about = &event["objectRef"];
    let resource = about["resource"].as_str()?;
    let done = event["responseStatus"]["code"].as_u64()? < 300;
    let agent = event["userAgent"].as_str().unwrap_or_default();
    if resource == "leases" || !done || agent.starts_with("kubectl") {
        return None;
    }
    Some(Write {
        who: who.to_owned(),
        what: format!("{} {resource} {}", event["verb"], about["name"]),
    })
}
