//! The balancer's file to its configuration, with every problem named.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use super::{
    Algorithm, BalancerConfig, Check, CheckType, Discovery, Frontend, Http, Target,
    default_drain_timeout, default_max_connections, default_threads,
};
use crate::config::{
    Problem,
    yaml::{self, Fields, Node, Reader},
};
use crate::shared_key::SharedKey;

/// Reads the file at `path` and its shared key; `read` gives a file's text.
///
/// # Errors
/// As [`parse`]; and what cannot be read.
pub fn load(
    path: &Path,
    read: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<BalancerConfig, Vec<Problem>> {
    let file = path.display().to_string();
    let problem = |line, message| {
        vec![Problem {
            file: file.clone(),
            line,
            message,
        }]
    };
    let text = read(path).map_err(|error| problem(1, format!("cannot be read: {error}")))?;
    let mut config = parse(&file, &text)?;
    if let Some(name) = &config.shared_key_file {
        let key = read(Path::new(name)).map_err(|error| error.to_string());
        let key = key.and_then(|text| SharedKey::parse(&text));
        let line = text
            .lines()
            .position(|line| line.contains("shared_key_file"))
            .map_or(1, |index| index as u32 + 1);
        config.shared_key =
            Some(key.map_err(|error| problem(line, format!("shared_key_file {name}: {error}")))?);
    }
    Ok(config)
}

/// Reads the text of the file `file` names.
///
/// # Errors
/// Every problem found. Where the text is not YAML, the first place alone.
pub fn parse(file: &str, text: &str) -> Result<BalancerConfig, Vec<Problem>> {
    let document = yaml::parse(file, text).map_err(|problem| vec![problem])?;
    let mut reader = Reader::new(file);
    let config = balancer(&mut reader, &document);
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => {
            reader.problems.sort_by_key(|problem| problem.line);
            Err(reader.problems)
        }
    }
}

fn balancer(reader: &mut Reader<'_>, document: &Node) -> Option<BalancerConfig> {
    const KEYS: &[&str] = &[
        "frontends",
        "targets",
        "discovery",
        "algorithm",
        "check",
        "max_connections",
        "http",
        "threads",
        "reload_on_change",
        "proxy_protocol",
        "shared_key_file",
        "drain_timeout",
        "revision",
    ];
    let fields = reader.fields(document, "", KEYS)?;
    let frontends = frontends(reader, &fields);
    let discovery = fields
        .value("discovery")
        .map(|node| discovery(reader, node));
    let targets = match (fields.value("targets"), &discovery) {
        (None, Some(_)) => Some(Vec::new()),
        _ => targets(reader, &fields),
    };
    let check = match fields.value("check") {
        Some(node) => check(reader, node),
        None => Some(Check::default()),
    };
    let http = fields.value("http").map(|node| http(reader, node));
    if let (Some(frontends), Some(Some(http)), Some(node)) =
        (&frontends, &http, fields.value("http"))
        && let Some(same) = frontends
            .iter()
            .find(|frontend| frontend.bind.clashes_with(http.bind))
    {
        reader.problem(
            node.line,
            format!(
                "http.bind is {}, which frontend {} has taken",
                http.bind, same.name
            ),
        );
    }
    let algorithm = reader.choice(
        &fields,
        "algorithm",
        &[
            ("leastconn", Algorithm::Leastconn),
            ("roundrobin", Algorithm::Roundrobin),
        ],
    );
    let max_connections = reader.number(&fields, "max_connections", 1..=1_000_000);
    let threads = reader.number(&fields, "threads", 1..=64);
    let reload_on_change = reader.truth(&fields, "reload_on_change");
    let proxy_protocol = reader.truth(&fields, "proxy_protocol");
    let shared_key_file = reader.text(&fields, "shared_key_file");
    let drain_timeout = reader.duration(
        &fields,
        "drain_timeout",
        Duration::ZERO..=Duration::from_secs(3600),
    );
    let revision = reader.text(&fields, "revision");
    Some(BalancerConfig {
        frontends: frontends?,
        targets: targets?,
        discovery: match discovery {
            Some(discovery) => Some(discovery?),
            None => None,
        },
        algorithm: algorithm.unwrap_or_default(),
        check: check?,
        max_connections: max_connections.unwrap_or(default_max_connections()),
        http: match http {
            Some(http) => Some(http?),
            None => None,
        },
        threads: threads.unwrap_or(default_threads()),
        reload_on_change: reload_on_change.unwrap_or(false),
        proxy_protocol: proxy_protocol.unwrap_or(false),
        shared_key_file,
        shared_key: None,
        drain_timeout: drain_timeout.unwrap_or(default_drain_timeout()),
        revision,
    })
}

fn frontends(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Vec<Frontend>> {
    let nodes = reader.items(fields, "frontends");
    if let Some(second) = nodes.get(1) {
        reader.problem(
            second.line,
            format!(
                "frontends has {} entries, expected exactly one",
                nodes.len()
            ),
        );
    }
    let frontends = nodes.iter().enumerate().map(|(index, node)| {
        let fields = reader.fields(
            node,
            &format!("frontends[{index}]"),
            &["name", "bind", "reuse_port"],
        )?;
        let name = reader.name(&fields, "name");
        let bind = reader.bind(&fields, "bind");
        let reuse_port = reader.truth(&fields, "reuse_port");
        let name = reader.require(&fields, "name", name);
        let bind = reader.require(&fields, "bind", bind);
        Some(Frontend {
            name: name?,
            bind: bind?,
            reuse_port: reuse_port.unwrap_or(false),
        })
    });
    all(frontends)
}

fn targets(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Vec<Target>> {
    let nodes = reader.items(fields, "targets");
    let mut lines = BTreeMap::new();
    let targets = nodes.iter().enumerate().map(|(index, node)| {
        let path = format!("targets[{index}]");
        let fields = reader.fields(node, &path, &["name", "address"])?;
        let name = reader.name(&fields, "name");
        let address = reader.address(&fields, "address");
        if let Some(name) = &name
            && let Some(earlier) = lines.insert(name.clone(), node.line)
        {
            reader.problem(
                node.line,
                format!("{path}.name is \"{name}\", as in line {earlier}; names must differ"),
            );
        }
        if let Some(address) = address
            && (address.port() == 0 || address.ip().is_unspecified())
        {
            reader.problem(
                node.line,
                format!("{path}.address is {address}, which nobody can connect to"),
            );
        }
        let name = reader.require(&fields, "name", name);
        let address = reader.require(&fields, "address", address);
        Some(Target {
            name: name?,
            address: address?,
        })
    });
    all(targets)
}

fn discovery(reader: &mut Reader<'_>, node: &Node) -> Option<Discovery> {
    let fields = reader.fields(node, "discovery", &["dns", "port", "resolver"])?;
    let dns = reader.dns_name(&fields, "dns");
    let port = reader.number(&fields, "port", 1..=65_535);
    let resolver = reader.address(&fields, "resolver");
    if let (Some(resolver), Some(node)) = (resolver, fields.value("resolver"))
        && (resolver.port() == 0 || resolver.ip().is_unspecified())
    {
        reader.problem(
            node.line,
            format!("discovery.resolver is {resolver}, which nobody can ask"),
        );
    }
    let dns = reader.require(&fields, "dns", dns);
    let port = reader.require(&fields, "port", port);
    Some(Discovery {
        dns: dns?,
        port: u16::try_from(port?).ok()?,
        resolver,
    })
}

/// Every item, or nothing; all of them are looked at in any case, and so are
/// their problems.
fn all<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    items.collect::<Vec<_>>().into_iter().collect()
}

fn check(reader: &mut Reader<'_>, node: &Node) -> Option<Check> {
    const TIMEOUT_MIN: Duration = Duration::from_millis(10);
    let default = Check::default();
    let fields = reader.fields(
        node,
        "check",
        &["type", "interval", "rise", "fall", "timeout"],
    )?;
    let kind = reader.choice(
        &fields,
        "type",
        &[("postgres", CheckType::Postgres), ("tcp", CheckType::Tcp)],
    );
    let interval = reader
        .duration(
            &fields,
            "interval",
            Duration::from_millis(100)..=Duration::from_secs(3600),
        )
        .unwrap_or(default.interval);
    let rise = reader.number(&fields, "rise", 1..=100);
    let fall = reader.number(&fields, "fall", 1..=100);
    let timeout = reader.duration(&fields, "timeout", TIMEOUT_MIN..=interval);
    Some(Check {
        r#type: kind.unwrap_or_default(),
        interval,
        rise: rise.unwrap_or(default.rise),
        fall: fall.unwrap_or(default.fall),
        // A short interval alone must not make the default timeout an error.
        timeout: timeout.unwrap_or(default.timeout.min(interval)),
    })
}

fn http(reader: &mut Reader<'_>, node: &Node) -> Option<Http> {
    let fields = reader.fields(node, "http", &["bind"])?;
    let bind = reader.bind(&fields, "bind");
    let bind = reader.require(&fields, "bind", bind);
    Some(Http { bind: bind? })
}
