//! Manifest files: what `-f FILE...` names, for `operator local` and
//! `operator check`.
//!
//! Read as an API server with strict field validation reads them: unknown
//! fields, wrong types and broken rules are problems, each with its file and
//! line, all reported together. `PgPoolCluster`, `Secret` and `ConfigMap`
//! documents are taken; others are named in a note. A document in a later file
//! replaces an earlier one of the same kind, namespace and name.

mod document;
mod schema;

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::Path,
    sync::LazyLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::{
    api::core::v1::{ConfigMap, PodTemplateSpec, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::cel::{ErrorKind, Validator, apply_defaults};
use proxy_core::config::Problem;
use schemars::JsonSchema;
use serde_json::{Value as Json, json};

use crate::{
    api::{self, PgPoolCluster},
    controller::{
        Fault, Place,
        dereference::{Dereferenced, SecretData, SecretValue},
    },
};
use document::{Node, Value};

/// Longest file that is read, in bytes.
const FILE_LENGTH_MAX: u64 = 4 * 1024 * 1024;
const NAMESPACE_DEFAULT: &str = "default";

/// A file's name as the user gave it, and its text.
#[derive(Clone)]
pub struct Source {
    /// Shown before line numbers.
    pub name: String,
    /// YAML documents.
    pub text: String,
}

impl Source {
    /// Reads a file, or standard input if the path is `-`.
    ///
    /// # Errors
    /// If it cannot be read, is not UTF-8, or is longer than 4 MiB.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let stdin = path.as_os_str() == "-";
        let name = if stdin {
            "<stdin>".to_owned()
        } else {
            path.display().to_string()
        };
        let problem = |message: String| Problem {
            file: name.clone(),
            line: 1,
            message,
        };
        let mut bytes = Vec::new();
        let read = if stdin {
            io::stdin()
                .take(FILE_LENGTH_MAX + 1)
                .read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path)
                .and_then(|file| file.take(FILE_LENGTH_MAX + 1).read_to_end(&mut bytes))
        };
        read.map_err(|error| problem(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > FILE_LENGTH_MAX {
            return Err(problem(format!(
                "is longer than {FILE_LENGTH_MAX} bytes, which no manifest is"
            )));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            Problem {
                line: u32::try_from(line + 1).unwrap_or(u32::MAX),
                ..problem("is not UTF-8".to_owned())
            }
        })?;
        Ok(Self { name, text })
    }
}

/// The documents of a tier: exactly one `PgPoolCluster`, and what it may refer to.
pub struct Manifest {
    /// The cluster, with the API server's defaults.
    pub cluster: PgPoolCluster,
    /// Documents that were read and left alone, a sentence each.
    pub notes: Vec<String>,
    document: Document,
    secrets: BTreeMap<Key, Document>,
}

/// Namespace and name.
type Key = (String, String);

struct Document {
    file: String,
    root: Node,
}

impl Document {
    fn problem(&self, line: u32, message: String) -> Problem {
        Problem {
            file: self.file.clone(),
            line,
            message,
        }
    }

    fn metadata(&self, field: &str) -> Option<&str> {
        self.root.field("metadata")?.field(field)?.text()
    }

    fn key(&self) -> Key {
        let namespace = self.metadata("namespace").unwrap_or(NAMESPACE_DEFAULT);
        let name = self.metadata("name").unwrap_or_default();
        (namespace.to_owned(), name.to_owned())
    }
}

/// Reads the sources in order.
///
/// # Errors
/// Every problem in every document, in the order of files and lines.
pub fn read(sources: &[Source]) -> Result<Manifest, Vec<Problem>> {
    match read_as_far_as_possible(sources) {
        (Some(manifest), problems) if problems.is_empty() => Ok(manifest),
        (_, problems) => Err(problems),
    }
}

/// Reads the sources in order, and what can be made of them in spite of the
/// problems, so that it can be judged further.
#[must_use]
pub fn read_as_far_as_possible(sources: &[Source]) -> (Option<Manifest>, Vec<Problem>) {
    let mut reader = Reader::default();
    for (index, source) in sources.iter().enumerate() {
        reader.source(index, source);
    }
    reader.finish(sources)
}

/// A kind that is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cluster,
    Secret,
    ConfigMap,
}

impl Kind {
    const NAMES: [&str; 3] = [api::KIND, "Secret", "ConfigMap"];

    fn of(name: &str) -> Option<(Self, &'static str)> {
        match name {
            api::KIND => Some((Self::Cluster, api::API_VERSION)),
            "Secret" => Some((Self::Secret, "v1")),
            "ConfigMap" => Some((Self::ConfigMap, "v1")),
            _ => None,
        }
    }

    fn schema(self) -> &'static Json {
        static SCHEMAS: LazyLock<[Json; 3]> = LazyLock::new(|| {
            let metadata = structural_schema::<ObjectMeta>();
            let mut cluster = api::schema();
            cluster["properties"]["apiVersion"] = json!({"type": "string"});
            cluster["properties"]["kind"] = json!({"type": "string"});
            let with_metadata = |mut schema: Json| {
                schema["properties"]["metadata"] = metadata.clone();
                schema
            };
            [
                with_metadata(cluster),
                with_metadata(structural_schema::<Secret>()),
                with_metadata(structural_schema::<ConfigMap>()),
            ]
        });
        &SCHEMAS[self as usize]
    }
}

/// A type's schema with nothing left to look up, as the API server keeps it.
fn structural_schema<T: JsonSchema>() -> Json {
    let schema = schemars::generate::SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(schemars::transform::AddNullable::default())
        .with_transform(kube::core::schema::StructuralSchemaRewriter)
        .with_transform(kube::core::schema::OptionalEnum)
        .with_transform(kube::core::schema::OptionalIntOrString)
        .into_generator()
        .into_root_schema_for::<T>();
    serde_json::to_value(schema).expect("a schema serialises")
}

/// What of a part of a PodTemplateSpec, written at `path`, Kubernetes does not
/// know: the path and what is wrong there.
pub(crate) fn misfits_of_pod_template(template: &Json, path: &str) -> Vec<(String, String)> {
    static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
        let mut schema = structural_schema::<PodTemplateSpec>();
        // What is merged over a whole need not be whole itself.
        if let Some(spec) = schema["properties"]["spec"].as_object_mut() {
            spec.remove("required");
        }
        schema
    });
    let misfits = schema::check(&Node::of(template), &SCHEMA, false);
    misfits
        .into_iter()
        .map(|misfit| match misfit.path.as_str() {
            "" => (path.to_owned(), misfit.text),
            below => (format!("{path}.{below}"), misfit.text),
        })
        .collect()
}

#[derive(Default)]
struct Reader {
    /// By kind, namespace and name, with the index of the source.
    documents: BTreeMap<(Kind, Key), (usize, Document)>,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Reader {
    fn source(&mut self, index: usize, source: &Source) {
        for document in document::read(&source.text) {
            match document {
                Ok(root) => self.document(
                    index,
                    Document {
                        file: source.name.clone(),
                        root,
                    },
                ),
                Err(error) => self.problems.push(Problem {
                    file: source.name.clone(),
                    line: error.line,
                    message: error.message,
                }),
            }
        }
    }

    fn document(&mut self, index: usize, document: Document) {
        let line = document.root.line;
        if !matches!(document.root.value, Value::Map(_)) {
            let message = "is not a Kubernetes object: expected a map with apiVersion and kind";
            self.problems
                .push(document.problem(line, message.to_owned()));
            return;
        }
        let Some(kind_name) = document.root.field("kind").and_then(Node::text) else {
            let problem = document.problem(line, "kind: is required".to_owned());
            self.problems.push(problem);
            return;
        };
        let Some((kind, version)) = Kind::of(kind_name) else {
            self.other_kind(&document, kind_name);
            return;
        };
        let before = self.problems.len();
        match document.root.field("apiVersion").and_then(Node::text) {
            Some(found) if found == version => {}
            found => {
                let found = found.map_or("is required".to_owned(), |found| format!("is {found:?}"));
                let line = document.root.line_of("apiVersion");
                let message = format!("apiVersion: {found}, {kind_name} is in {version}");
                self.problems.push(document.problem(line, message));
            }
        }
        for misfit in schema::check(&document.root, kind.schema(), kind == Kind::Secret) {
            let problem = document.problem(misfit.line, misfit.message());
            self.problems.push(problem);
        }
        if document.metadata("name").is_none_or(str::is_empty) && self.problems.len() == before {
            let problem = document.problem(line, "metadata.name: is required".to_owned());
            self.problems.push(problem);
        }
        if kind == Kind::Cluster {
            self.rules(&document);
        }
        let key = (kind, document.key());
        if let Some((earlier_index, earlier)) = self.documents.get(&key)
            && *earlier_index == index
        {
            let message = format!(
                "{kind_name} {} is already in this file, at line {}",
                key.1.1, earlier.root.line
            );
            let problem = document.problem(line, message);
            self.problems.push(problem);
        }
        self.documents.insert(key, (index, document));
    }

    /// A kind that is not taken: an error if it was meant to be one that is.
    fn other_kind(&mut self, document: &Document, kind: &str) {
        let line = document.root.line;
        let version = document.root.field("apiVersion").and_then(Node::text);
        let meant = match schema::nearest(kind, Kind::NAMES.iter().copied()) {
            None if version.is_some_and(|version| version.starts_with("poolkeeper.dev/")) => {
                Some(api::KIND)
            }
            meant => meant,
        };
        if let Some(meant) = meant {
            let line = document.root.line_of("kind");
            let message = format!("kind: {kind:?} is unknown, did you mean {meant:?}?");
            self.problems.push(document.problem(line, message));
            return;
        }
        let name = document.metadata("name").unwrap_or("without a name");
        let file = &document.file;
        self.notes.push(format!(
            "{file}:{line}: {kind} {name} is of no use here and is ignored"
        ));
    }

    /// Judges the CEL rules. Where a value that a rule needs does not fit the
    /// schema, the rule cannot be evaluated and the misfit says enough.
    fn rules(&mut self, document: &Document) {
        let schema = Kind::Cluster.schema();
        let object = apply_defaults(schema, &document.root.to_json());
        let Err(errors) = Validator::new().validate(schema, &object, None) else {
            return;
        };
        for error in errors.into_vec() {
            if error.kind != ErrorKind::ValidationFailure {
                continue;
            }
            // The message of a rule about the whole object begins with the field.
            let (path, message) = match error.field_path.trim_start_matches('.') {
                "" => {
                    let path = error.message.split(' ').next().unwrap_or_default();
                    (path.to_owned(), error.message)
                }
                path => (path.to_owned(), format!("{path}: {}", error.message)),
            };
            let line = document.root.line_of(&path);
            self.problems.push(document.problem(line, message));
        }
    }

    fn finish(mut self, sources: &[Source]) -> (Option<Manifest>, Vec<Problem>) {
        let mut clusters = Vec::new();
        let mut secrets = BTreeMap::new();
        for ((kind, key), (_, document)) in std::mem::take(&mut self.documents) {
            match kind {
                Kind::Cluster => clusters.push(document),
                Kind::Secret => {
                    secrets.insert(key, document);
                }
                // Nothing refers to a ConfigMap yet; it is checked and left.
                Kind::ConfigMap => {}
            }
        }
        let cluster = self.only_cluster(clusters, sources);
        let manifest = cluster.map(|(document, cluster)| Manifest {
            cluster,
            notes: self.notes,
            document,
            secrets,
        });
        let order = |problem: &Problem| {
            sources
                .iter()
                .position(|source| source.name == problem.file)
                .unwrap_or(usize::MAX)
        };
        self.problems
            .sort_by_key(|problem| (order(problem), problem.line));
        self.problems.dedup();
        (manifest, self.problems)
    }

    fn only_cluster(
        &mut self,
        clusters: Vec<Document>,
        sources: &[Source],
    ) -> Option<(Document, PgPoolCluster)> {
        let mut clusters = clusters.into_iter();
        let Some(document) = clusters.next() else {
            if self.problems.is_empty() {
                self.problems.push(Problem {
                    file: sources
                        .last()
                        .map_or(String::new(), |source| source.name.clone()),
                    line: 1,
                    message: "no PgPoolCluster in the files given, exactly one is needed"
                        .to_owned(),
                });
            }
            return None;
        };
        for other in clusters {
            let name = other.metadata("name").unwrap_or_default();
            let message = format!(
                "PgPoolCluster {name} is one too many: run one operator for each, with a --state-dir of its own"
            );
            let problem = other.problem(other.root.line, message);
            self.problems.push(problem);
        }
        let object = apply_defaults(Kind::Cluster.schema(), &document.root.to_json());
        match serde_json::from_value(object) {
            Ok(cluster) => Some((document, cluster)),
            // What does not fit was named already, by field and line.
            Err(_) if !self.problems.is_empty() => None,
            Err(error) => {
                let problem = document.problem(document.root.line, error.to_string());
                self.problems.push(problem);
                None
            }
        }
    }
}

impl Manifest {
    /// The file that holds the cluster, as it was named.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.document.file
    }

    /// The cluster with the Secrets it refers to, taken from the documents.
    #[must_use]
    pub fn dereference(&self) -> Dereferenced {
        Dereferenced::new(&self.cluster, |name| {
            let key = (self.document.key().0, name.to_owned());
            self.secrets
                .get(&key)
                .map(|document| secret_data(&document.root))
        })
    }

    /// Where a fault is, by file and line.
    #[must_use]
    pub fn problem(&self, fault: &Fault) -> Problem {
        match &fault.place {
            Place::Field(path) => {
                let line = self.document.root.line_of(path);
                self.document
                    .problem(line, format!("{path}: {}", fault.message))
            }
            Place::Secret { name, key, line } => {
                let message = format!("Secret {name}, key {key}: {}", fault.message);
                let id = (self.document.key().0, name.clone());
                match self.secrets.get(&id) {
                    Some(document) => {
                        document.problem(value_line(&document.root, key, *line), message)
                    }
                    None => self.document.problem(self.document.root.line, message),
                }
            }
        }
    }
}

/// The line of line `line` of a Secret's value. Only a block (`key: |`) has
/// lines of its own in the file; all else is at its key.
fn value_line(root: &Node, key: &str, line: u32) -> u32 {
    let written = ["stringData", "data"]
        .into_iter()
        .find_map(|field| Some((field, root.field(field)?.entry(key)?)));
    match written {
        Some(("stringData", entry)) if entry.node.line > entry.line => {
            entry.node.line + line.saturating_sub(1)
        }
        Some((_, entry)) => entry.line,
        None => root.line,
    }
}

/// The values of a Secret; `stringData` wins over `data`, as on the API server.
fn secret_data(root: &Node) -> SecretData {
    let entries = |field: &str| match root.field(field).map(|node| &node.value) {
        Some(Value::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    let mut data = SecretData::default();
    for entry in entries("data") {
        let bytes = entry
            .node
            .text()
            .and_then(decode_base64)
            .unwrap_or_default();
        data.insert(entry.key.clone(), SecretValue::new(bytes));
    }
    for entry in entries("stringData") {
        let text = entry.node.text().unwrap_or_default();
        data.insert(
            entry.key.clone(),
            SecretValue::new(text.as_bytes().to_vec()),
        );
    }
    data
}

/// Standard base64 with padding; line breaks are let through, as Kubernetes does.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split(['\n', '\r']).collect();
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests;
