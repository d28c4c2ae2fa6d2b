//! Where PostgreSQL is, and who logs in there: from the manifest, from a URI in
//! a Secret, or from what CloudNativePG makes for a Cluster.

use super::{HostPort, Validator, uri};
use crate::{
    api::{self, CnpgClusterRef, PgPoolClusterSpec, UriSecretRef},
    controller::{Fault, FaultKind, Place, build, dereference::SecretValue},
};

/// CloudNativePG's port.
const PORT: u16 = 5432;

/// A PostgreSQL.
pub(super) struct Upstream {
    pub(super) address: HostPort,
    /// The field that says so.
    pub(super) origin: String,
    /// Who can log in there besides those whom the manifest names.
    pub(super) login: Option<UserlistLine>,
    /// The database that it names for that.
    pub(super) database: Option<String>,
}

/// A user and what it logs in with, as a line of the user list.
pub(super) struct UserlistLine {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) place: Place,
}

impl Validator<'_> {
    pub(super) fn upstream(&mut self, spec: &PgPoolClusterSpec) -> Upstream {
        let upstream = &spec.upstream;
        if let Some(secret) = &upstream.uri_secret_ref {
            return self.uri(secret, spec.tls.server.mode);
        }
        if let Some(cnpg) = &upstream.cnpg_cluster_ref {
            return self.cnpg(cnpg, spec);
        }
        let origin = "spec.upstream.address";
        let address = match &upstream.address {
            Some(address) => HostPort {
                host: address.host.clone(),
                port: self.number(&format!("{origin}.port"), address.port),
            },
            None => {
                self.fault(origin, "is required");
                HostPort::nowhere()
            }
        };
        Upstream {
            address,
            origin: origin.to_owned(),
            login: None,
            database: None,
        }
    }

    fn uri(&mut self, secret: &UriSecretRef, tls: api::TlsMode) -> Upstream {
        let origin = "spec.upstream.uriSecretRef";
        let mut upstream = Upstream {
            address: HostPort::nowhere(),
            origin: origin.to_owned(),
            login: None,
            database: None,
        };
        let Some(value) = self.secret(origin, &secret.name, &secret.key) else {
            return upstream;
        };
        let text = value.text().ok_or_else(|| "is not UTF-8".to_owned());
        let uri = match text.and_then(uri::parse) {
            Ok(uri) => uri,
            Err(message) => {
                let fault = Fault::secret(&secret.name, &secret.key, 1, message);
                self.faults.push(fault);
                return upstream;
            }
        };
        if let Some(asked) = uri
            .tls
            .filter(|asked| *asked > tls && *asked > api::TlsMode::Prefer)
        {
            let message = format!(
                "is {}, while the URI in Secret {}, key {}, asks for sslmode={}: set it so here",
                tls.word(),
                secret.name,
                secret.key,
                asked.word()
            );
            self.fault("spec.tls.server.mode", message);
        }
        if !uri.others.is_empty() {
            let message = format!("has no effect here: {}", uri.others.join(", "));
            self.warnings
                .push(Fault::secret(&secret.name, &secret.key, 1, message));
        }
        upstream.address = uri.address;
        let parts = [("user", &uri.user), ("password", &uri.password)];
        for (part, value) in parts {
            let text = value.as_deref().unwrap_or_default();
            if text.chars().any(char::is_control) {
                let message = format!("its {part} holds a control character");
                self.faults
                    .push(Fault::secret(&secret.name, &secret.key, 1, message));
                return upstream;
            }
        }
        upstream.database = uri.database;
        upstream.login = uri
            .user
            .zip(uri.password)
            .map(|(user, password)| UserlistLine {
                user,
                password,
                place: Place::Secret {
                    name: secret.name.clone(),
                    key: secret.key.clone(),
                    line: 1,
                },
            });
        upstream
    }

    fn cnpg(&mut self, cnpg: &CnpgClusterRef, spec: &PgPoolClusterSpec) -> Upstream {
        let origin = "spec.upstream.cnpgClusterRef";
        let (service, secret) = (cnpg.service(), cnpg.app_secret());
        if self.missing_services.contains(&service) {
            let message = format!(
                "Service {service} does not exist: is there a CloudNativePG Cluster {} in this namespace?",
                cnpg.name
            );
            self.missing(&format!("{origin}.name"), message);
        }
        // A Cluster may have another Secret for its applications. It is missed
        // only where nobody else could log in.
        let others = spec.auth.userlist_secret_ref.is_some()
            || spec
                .users
                .iter()
                .any(|user| user.password_secret_ref.is_some());
        let there = self.secrets.get(&secret).is_some_and(Option::is_some);
        let login = (there || !others)
            .then(|| self.basic_auth(&format!("{origin}.name"), &secret))
            .flatten();
        let data = self.secrets.get(&secret).and_then(Option::as_ref);
        let database = data.and_then(|data| data.get(build::DBNAME)?.text());
        // Nobody but an application needs it: one that is odd is none.
        let can_be_used = |name: &&str| !name.is_empty() && !name.chars().any(char::is_control);
        let database = database.filter(can_be_used).map(str::to_owned);
        Upstream {
            address: HostPort {
                host: service,
                port: PORT,
            },
            origin: origin.to_owned(),
            login,
            database,
        }
    }

    /// User and password from a Secret of type kubernetes.io/basic-auth.
    fn basic_auth(&mut self, path: &str, secret: &str) -> Option<UserlistLine> {
        let user = self.secret(path, secret, build::USERNAME);
        let password = self.secret(path, secret, build::PASSWORD);
        let (user, password) = user.zip(password)?;
        let user = self.line(secret, build::USERNAME, &user)?;
        Some(UserlistLine {
            user,
            password: self.line(secret, build::PASSWORD, &password)?,
            place: Place::Secret {
                name: secret.to_owned(),
                key: build::PASSWORD.to_owned(),
                line: 1,
            },
        })
    }

    /// A value that must be a line of text, neither empty nor with an end.
    pub(super) fn line(&mut self, secret: &str, key: &str, value: &SecretValue) -> Option<String> {
        let wrong = match value.text() {
            None => "is not UTF-8",
            Some("") => "is empty",
            Some(text) if text.ends_with('\n') => {
                "ends in a line break, which would be part of it: write it without, as echo -n does"
            }
            Some(text) if text.chars().any(char::is_control) => "holds a control character",
            Some(text) => return Some(text.to_owned()),
        };
        self.faults.push(Fault::secret(secret, key, 1, wrong));
        None
    }

    /// A fault about what is not there; a Secret is missed once, however many of
    /// its keys are wanted.
    pub(super) fn missing(&mut self, path: &str, message: impl Into<String>) {
        let fault = Fault::field(path, message).of_kind(FaultKind::MissingReference);
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}
