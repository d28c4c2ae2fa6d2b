//! The tier on a real node: what the README says typed as it stands, and what
//! befalls a tier, while applications work.
//!
//! The images are those that we ship, but for the profile.

#[path = "kubernetes_operator/api.rs"]
#[allow(dead_code, reason = "other scenarios use the rest")]
mod api;
#[path = "kubernetes_end_to_end/applications.rs"]
mod applications;
#[path = "kubernetes_end_to_end/begin.rs"]
mod begin;
#[path = "kubernetes_end_to_end/cancels.rs"]
mod cancels;
#[path = "kubernetes_end_to_end/changes.rs"]
mod changes;
#[path = "kubernetes_end_to_end/faults.rs"]
mod faults;
#[path = "kubernetes_end_to_end/operators.rs"]
mod operators;
#[path = "kubernetes_end_to_end/planned.rs"]
mod planned;
#[path = "kubernetes_end_to_end/rounds.rs"]
mod rounds;
#[path = "kubernetes_notifications/secure_inbox.rs"]
mod secure_inbox;
#[path = "kubernetes_end_to_end/told.rs"]
mod told;
#[path = "kubernetes_end_to_end/world.rs"]
mod world;

use std::time::Instant;

use anyhow::{Context, Result};
use world::World;

type Check = fn(&mut World) -> Result<()>;

const CHECKS: &[(&str, Check)] = &[
    ("the images are as they are shipped", begin::look_at_images),
    (
        "the README's commands, as they stand, make a tier",
        begin::follow_the_readme,
    ),
    (
        "helm test passes, and the notes lead on",
        begin::look_at_the_release,
    ),
    ("the examples, applied unchanged, serve", begin::serve),
    ("every Pod says what it does", begin::tell),
    (
        "other values replace the operator alone, and a test message arrives",
        told::test,
    ),
    (
        "a cancel reaches its query at whichever pooler",
        cancels::reach_their_queries,
    ),
    ("a password changes without a restart", changes::password),
    ("a setting changes without a restart", changes::reload),
    ("a setting that needs a restart rolls", changes::roll),
    ("a budget of servers is taken", planned::budget),
    ("scaling cuts no transaction", planned::scale),
    ("a rolling restart cuts no transaction", planned::restart),
    ("a drained node cuts no transaction", planned::drain),
    (
        "who asks while it is paused is answered later",
        planned::pause,
    ),
    ("of planned work nothing is told", told::nothing),
    (
        "a pooler that dies takes no other along",
        faults::poolers_die,
    ),
    ("PostgreSQL may be away", faults::postgres_is_away),
    ("of what fails each is told once", told::each_once),
    ("without its kubelet it goes on", faults::kubelet_stops),
    (
        "an image that is missing stops a rollout",
        faults::image_is_missing,
    ),
    (
        "a newer operator, by the chart, rolls nothing unasked",
        operators::is_succeeded,
    ),
    (
        "it passes the restricted standard",
        operators::passes_restricted,
    ),
    ("what is deleted takes everything along", operators::deletes),
];

#[test]
fn a_tier_serves_on_a_real_node() -> Result<()> {
    let mut begin = Instant::now();
    let mut told = |what: &str| {
        println!("{what}: {:.1} s", begin.elapsed().as_secs_f32());
        begin = Instant::now();
    };
    let mut world = World::start()?;
    told("a node with images");
    for (name, check) in CHECKS {
        check(&mut world).with_context(|| format!("check: {name}\n{}", world.account()))?;
        told(name);
    }
    world.node.check_runs()
}
