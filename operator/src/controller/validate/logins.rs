//! userlist.txt: who may log in, put together from the user list's Secret, the
//! users' own Secrets and the upstream's; and which of them applications are to
//! have the credentials of.

use std::collections::BTreeSet;

use proxy_core::config::userlist::{self, Secret};

use super::{
    Credentials, Userlist, Validator,
    upstream::{Upstream, UserlistLine},
};
use crate::{
    api::{AuthType, PgPoolClusterSpec},
    controller::{Place, build, dereference::SecretValue},
};

impl Validator<'_> {
    /// The manifest's own word counts before the upstream's: a user that both
    /// name has the password that the manifest names.
    pub(super) fn userlist(&mut self, spec: &PgPoolClusterSpec, upstream: &Upstream) -> Userlist {
        let path = "spec.auth.userlistSecretRef.name";
        let listed = spec.auth.userlist_secret_ref.as_ref();
        let value = listed.and_then(|listed| self.secret(path, &listed.name, build::USERLIST));
        let mut text = value.map_or(Vec::new(), |value| value.bytes().to_vec());
        let mut known = names(&text);
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        let own = text.iter().filter(|byte| **byte == b'\n').count();
        let mut added = Vec::new();
        let mut lines = self.users_lines(spec, &known);
        known.extend(lines.iter().map(|line| line.user.clone()));
        if let Some(login) = &upstream.login
            && !known.contains(&login.user)
        {
            lines.push(UserlistLine {
                user: login.user.clone(),
                password: login.password.clone(),
                place: login.place.clone(),
            });
        }
        let asks = matches!(spec.auth.r#type, AuthType::ScramSha256 | AuthType::Md5);
        // A mistake in the list is told elsewhere.
        let nobody = text.is_empty() || userlist_is_empty(&text);
        if asks && nobody && lines.is_empty() && self.faults.is_empty() {
            self.nobody_could_log_in(spec);
        }
        for line in lines {
            let double = |text: &str| text.replace('"', "\"\"");
            let written = format!(
                "\"{}\" \"{}\"\n",
                double(&line.user),
                double(&line.password)
            );
            text.extend_from_slice(written.as_bytes());
            added.push(line.place);
        }
        Userlist {
            content: SecretValue::new(text),
            secret: listed.map(|listed| listed.name.clone()),
            lines: u32::try_from(own).unwrap_or(u32::MAX),
            added,
        }
    }

    fn nobody_could_log_in(&mut self, spec: &PgPoolClusterSpec) {
        let mut lists = Vec::new();
        if let Some(listed) = &spec.auth.userlist_secret_ref {
            let name = &listed.name;
            lists.push(format!(
                "Secret {name}, key {}, lists no user",
                build::USERLIST
            ));
        }
        if let Some(uri) = &spec.upstream.uri_secret_ref {
            let (name, key) = (&uri.name, &uri.key);
            lists.push(format!(
                "the URI in Secret {name}, key {key}, has no user with a password"
            ));
        }
        let message = format!("nobody could log in: {}", lists.join(", and "));
        self.fault("spec.auth", message);
    }

    fn users_lines(
        &mut self,
        spec: &PgPoolClusterSpec,
        known: &BTreeSet<String>,
    ) -> Vec<UserlistLine> {
        let mut lines = Vec::new();
        for (index, user) in spec.users.iter().enumerate() {
            let Some(secret) = &user.password_secret_ref else {
                continue;
            };
            let path = format!("spec.users[{index}].passwordSecretRef.name");
            if known.contains(&user.name) {
                let message = format!("the user list has a line for {:?} too; drop one", user.name);
                self.fault(&path, message);
            }
            let Some(value) = self.secret(&path, &secret.name, build::PASSWORD) else {
                continue;
            };
            let data = self.secrets.get(&secret.name).and_then(Option::as_ref);
            let named = data.and_then(|data| data.get(build::USERNAME));
            if named.is_some_and(|named| named.bytes() != user.name.as_bytes()) {
                let message = format!(
                    "Secret {} is another user's: its key username is not {:?}",
                    secret.name, user.name
                );
                self.fault(&path, message);
            }
            if let Some(password) = self.line(&secret.name, build::PASSWORD, &value) {
                lines.push(UserlistLine {
                    user: user.name.clone(),
                    password,
                    place: Place::Secret {
                        name: secret.name.clone(),
                        key: build::PASSWORD.to_owned(),
                        line: 1,
                    },
                });
            }
        }
        lines
    }
}

/// Users whose password is known: of those that the spec lists, and the upstream's.
pub(super) fn plain_credentials(
    spec: &PgPoolClusterSpec,
    upstream: &Upstream,
    userlist: &Userlist,
) -> Vec<Credentials> {
    let text = String::from_utf8_lossy(userlist.content.bytes());
    // A mistake in the list is told elsewhere.
    let list = userlist::parse(build::USERLIST, &text).unwrap_or_default();
    let listed = spec.users.iter().map(|user| &user.name);
    let of_upstream = upstream.login.iter().map(|line| &line.user);
    let mut users: Vec<&String> = Vec::new();
    for user in listed.chain(of_upstream) {
        if !users.contains(&user) {
            users.push(user);
        }
    }
    let credentials = users
        .into_iter()
        .filter_map(|user| match list.secret(user) {
            Some(Secret::Plain(password)) => Some(Credentials {
                user: user.clone(),
                password: SecretValue::new(password.clone().into_bytes()),
            }),
            Some(Secret::Md5(_) | Secret::Scram(_)) | None => None,
        });
    credentials.collect()
}

fn userlist_is_empty(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    userlist::parse(build::USERLIST, &text).is_ok_and(|list| list.users().next().is_none())
}

/// The users of a list; none if it holds a mistake, which is told elsewhere.
fn names(text: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(text);
    let list = userlist::parse(build::USERLIST, &text).unwrap_or_default();
    list.users().map(|(user, _)| user.to_owned()).collect()
}
