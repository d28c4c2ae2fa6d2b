//! The system's users and groups: whom the process becomes, to whom its socket
//! belongs. Names come from /etc/passwd and /etc/group; other directories
//! (LDAP and the like) are not asked, numbers always work.

use std::io;

use proxy_core::config::Global;
use rustix::{
    process::{Gid, Uid, getegid, geteuid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

/// Why the process cannot become another user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Nobody has that name.
    #[error("no user {0} in /etc/passwd")]
    Unknown(String),
    /// Only root may.
    #[error("only root can become user {0}")]
    NotRoot(String),
    /// It has threads, each of which has a user of its own.
    #[error("cannot become user {0}: the process has threads already")]
    Threads(String),
    /// The kernel refuses.
    #[error("cannot become user {name}: {source}")]
    System {
        /// The name asked for.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Nobody is in a group of that name.
#[derive(Debug, thiserror::Error)]
#[error("unix_socket_group = {0} is no group in /etc/group")]
pub struct UnknownGroup(String);

/// A user as the system knows it.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    /// Of which groups it is a member besides.
    groups: Vec<u32>,
}

/// Becomes the system user `name`, for good. To be called before the process
/// has a second thread: the kernel knows users of threads only.
///
/// # Errors
/// See [`UserError`].
pub fn become_user(name: &str) -> Result<(), UserError> {
    let system = |source| system(name, source);
    let user = look_up(name)?;
    if geteuid().as_raw() == user.uid && getegid().as_raw() == user.gid {
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err(UserError::NotRoot(name.to_owned()));
    }
    if std::fs::read_dir("/proc/self/task")
        .map_err(system)?
        .count()
        > 1
    {
        return Err(UserError::Threads(name.to_owned()));
    }
    let groups: Vec<Gid> = user.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    // In this order: the user may do none of it.
    set_thread_groups(&groups)
        .and_then(|()| set_thread_gid(Gid::from_raw(user.gid)))
        .and_then(|()| set_thread_uid(Uid::from_raw(user.uid)))
        .map_err(|error| system(error.into()))
}

/// Whether the system knows the user `name`, or none is asked for.
///
/// # Errors
/// It does not.
pub(super) fn check_user(name: &str) -> Result<(), UserError> {
    if name.is_empty() {
        return Ok(());
    }
    look_up(name).map(drop)
}

fn look_up(name: &str) -> Result<User, UserError> {
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(|error| system(name, error))?;
    // Without the file there are no other groups.
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    find(&passwd, &group, name).ok_or_else(|| UserError::Unknown(name.to_owned()))
}

fn system(name: &str, source: io::Error) -> UserError {
    UserError::System {
        name: name.to_owned(),
        source,
    }
}

fn find(passwd: &str, group: &str, name: &str) -> Option<User> {
    let mut entries = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        Some((name, uid, gid))
    });
    let number: Option<u32> = name.parse().ok();
    let (name, uid, gid) =
        entries.find(|(known, uid, _)| *known == name || Some(*uid) == number)?;
    let groups = group.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let id: u32 = fields.next()?.parse().ok()?;
        let is_member = fields.next()?.split(',').any(|member| member == name);
        (is_member || id == gid).then_some(id)
    });
    Some(User {
        uid,
        gid,
        groups: groups.collect(),
    })
}

/// The group that the Unix socket is to belong to, if there is such a socket and
/// a group is set, by name or number.
///
/// # Errors
/// The system does not know it.
pub(super) fn socket_group(global: &Global) -> Result<Option<Gid>, UnknownGroup> {
    let Some(name) = &global.unix_socket_group else {
        return Ok(None);
    };
    if global.unix_socket_dir.is_empty() {
        return Ok(None);
    }
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    match group_id(&group, name) {
        Some(id) => Ok(Some(Gid::from_raw(id))),
        None => Err(UnknownGroup(name.clone())),
    }
}

fn group_id(group: &str, name: &str) -> Option<u32> {
    let mut entries = group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse().ok()?))
    });
    entries
        .find(|(known, _)| *known == name)
        .map(|(_, id)| id)
        .or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:100:Ann:/home/ann:\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nssl-cert:x:101:bob,ann\nother:x:102:bob\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let ann = User {
            uid: 1000,
            gid: 100,
            groups: vec![100, 101],
        };
        assert_eq!(find(PASSWD, GROUP, "1000"), Some(User { ..ann }));
        assert_eq!(
            find(PASSWD, GROUP, "ann"),
            Some(User {
                uid: 1000,
                gid: 100,
                groups: vec![100, 101]
            })
        );
        assert_eq!(find(PASSWD, GROUP, "eve"), None);
        assert_eq!(find(PASSWD, GROUP, "1001"), None);
    }

    #[test]
    fn groups_are_found_by_name_and_number() {
        assert_eq!(group_id(GROUP, "users"), Some(100));
        assert_eq!(group_id(GROUP, "4711"), Some(4711));
        assert_eq!(group_id(GROUP, "nobody"), None);
    }
}
