//! Planned work, while applications work: none of their transactions is cut.

use anyhow::{Result, ensure};

use crate::{applications::Applications, world::World};

const APPLICATIONS: usize = 8;

pub(crate) fn scale(world: &mut World) -> Result<()> {
    let applications = Applications::start(world, APPLICATIONS)?;
    for count in [5, 2] {
        applications.go_on(world, 50)?;
        world.kubectl(&format!("scale pgpc shop --replicas={count}"))?;
        world.settled(count)?;
    }
    applications.go_on(world, 50)?;
    let account = applications.finish(world)?;
    account.check_smooth()?;
    ensure!(account.moved > 0, "nobody had to move: {account:?}");
    world.kubectl("scale pgpc shop --replicas=3")?;
    world.settled(3)
}

pub(crate) fn restart(world: &mut World) -> Result<()> {
    let before = world.all_pods()?;
    let applications = Applications::start(world, APPLICATIONS)?;
    applications.go_on(world, 50)?;
    world.kubectl("annotate pgpc shop poolkeeper.dev/restart=now")?;
    world.until("every Pod to be another", || {
        let left = world.all_pods()?;
        ensure!(!left.iter().any(|pod| before.contains(pod)), "{left:?}");
        Ok(())
    })?;
    world.settled(3)?;
    applications.go_on(world, 50)?;
    applications.finish(world)?.check_smooth()
}
