use std::net::Ipv4Addr;

use super::*;
use crate::controller::build;
use crate::manifest::{self, Source};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The quickstart's tier, three poolers and two balancers.
fn tier() -> Tier {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.yaml");
    let manifest = manifest::read(&[Source::read(&path).unwrap()])
        .map_err(|_| ())
        .unwrap();
    let policy = crate::webhook::WebhookPolicy::default();
    let cluster = crate::controller::validate::validate(&manifest.dereference(), &policy).unwrap();
    build::tier(&cluster)
}

#[path = "../../../tests/local/offset.rs"]
mod offset;
use offset::Offset;

#[test]
fn ports_are_those_of_the_contract_moved_by_the_offset() {
    let reserved = Offset::free();
    let offset = reserved.ports;
    let ports = plan(&tier(), HERE, offset, &Held::default()).unwrap();
    assert_eq!(ports.service.port(), 5432 + offset);
    let dashboards: Vec<u16> = ports.dashboards.iter().map(SocketAddr::port).collect();
    assert_eq!(dashboards, [8404 + offset, 8405 + offset]);
    assert_eq!(ports.operator.port(), 8080 + offset);
    let data: Vec<u16> = ports
        .poolers
        .iter()
        .map(|pooler| pooler.data.port())
        .collect();
    assert!(
        data[0] >= 6432 + offset && data[1] == data[0] + 1 && data[2] == data[0] + 2,
        "{data:?}"
    );
}

#[test]
fn port_in_use_is_refused_also_where_it_is_shared() {
    let reserved = Offset::free();
    let offset = reserved.ports;
    let address = SocketAddr::new(HERE, 5432 + offset);
    let shared = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    shared.set_reuse_port(true).unwrap();
    shared.bind(&address.into()).unwrap();
    shared.listen(1).unwrap();
    let error = plan(&tier(), HERE, offset, &Held::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("port {address} (the service) is in use;")),
        "{text}"
    );
    // Where balancers of this very tier listen, it is theirs.
    let held = Held {
        balancers: vec![address],
        ..Held::default()
    };
    assert!(plan(&tier(), HERE, offset, &held).is_ok());
}

#[test]
fn second_operator_in_the_same_moment_is_refused_and_poolers_step_aside() {
    let reserved = Offset::free();
    let offset = reserved.ports;
    let first = plan(&tier(), HERE, offset, &Held::default()).unwrap();
    let error = plan(&tier(), HERE, offset, &Held::default()).unwrap_err();
    assert!(matches!(error, PortError::InUse { .. }), "{error}");
    assert!(Claim::new(first.poolers[0].data).is_none());
    drop(first);
    assert!(plan(&tier(), HERE, offset, &Held::default()).is_ok());
}

#[test]
fn poolers_that_run_keep_their_ports() {
    let reserved = Offset::free();
    let offset = reserved.ports;
    let first = plan(&tier(), HERE, offset, &Held::default())
        .unwrap()
        .poolers;
    // Theirs are in use, and so is one that the missing pooler could get.
    let _listeners: Vec<TcpListener> = [first[0].data, first[2].data, first[1].data]
        .into_iter()
        .map(|address| TcpListener::bind(address).unwrap())
        .collect();
    let held = Held {
        poolers: vec![Some(first[0]), None, Some(first[2])],
        ..Held::default()
    };
    let again = plan(&tier(), HERE, offset, &held).unwrap().poolers;
    assert_eq!((again[0], again[2]), (first[0], first[2]));
    assert!(again[1].data.port() > first[2].data.port());
    assert_eq!(again[1].http, first[1].http, "that one was free");
}

#[test]
fn ports_that_collide_or_do_not_exist_are_named() {
    let mut tier = tier();
    tier.service_port = 8405;
    let error = plan(&tier, HERE, Offset::free().ports, &Held::default()).unwrap_err();
    assert!(
        matches!(
            error,
            PortError::Twice {
                one: "the service",
                other: "a dashboard",
                ..
            }
        ),
        "{error}"
    );
    let error = plan(&tier, HERE, 60_000, &Held::default()).unwrap_err();
    assert!(matches!(error, PortError::TooHigh { .. }), "{error}");
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let error = plan(&tier, elsewhere, 0, &Held::default()).unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }), "{error}");
}
