//! Parameters that follow a client.

use super::*;
use crate::wire::{parameter_status, query};

fn time_zone(parameters: &Parameters) -> Option<&str> {
    parameters.value(2)
}

#[test]
fn a_parameter_that_the_client_sets_follows_it() {
    let mut lent = Lent::new();
    lent.client(query("set timezone = 'utc'"));
    lent.server(joined(&[
        &sample::complete("SET"),
        &parameter_status("TimeZone", "UTC"),
        &sample::ready(b'I'),
    ]));
    assert_eq!(lent.answers(), "C S Z");
    assert_eq!(time_zone(lent.client.parameters()), Some("UTC"));
    let first = lent.next_client();
    let sql = lent
        .interner
        .set_statements(first.parameters(), lent.client.parameters());
    assert_eq!(sql.as_deref(), Some("SET TimeZone='UTC';"));
}

#[test]
fn what_the_server_makes_of_a_value_is_what_the_client_wants_from_then_on() {
    let mut lent = Lent::new();
    let wants = lent.interner.with(&lent.interner.empty(), 2, "utc");
    let base = lent.interner.with(&lent.interner.empty(), 4, "app");
    lent.client = ClientSession::new(lent.interner.over(&base, &wants));
    let _ = lent
        .server
        .ours("SET TimeZone='utc';SET application_name='app'");
    lent.server(joined(&[
        &sample::complete("SET"),
        &parameter_status("TimeZone", "UTC"),
        &parameter_status("application_name", "app"),
        &sample::ready(b'I'),
    ]));
    assert!(lent.answers.is_empty(), "the client did not ask for it");
    lent.client.adopt_parameters(&lent.interner, &lent.server);
    assert_eq!(lent.client.parameters(), lent.server.parameters());
}
