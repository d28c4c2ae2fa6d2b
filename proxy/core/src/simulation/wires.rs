//! Bytes between applications, pooler and servers: cut anywhere, in any time.

use std::time::Duration;

use super::{
    application::Act,
    pooler::{CHOKED, Place},
    world::{Event, Letter, World},
};
use crate::pool::{ClientKey, ServerKey};

impl World {
    pub(super) fn application(&mut self, key: ClientKey) {
        self.watch.application_woke(key);
        let client = &mut self.clients[key];
        let excused = client.excuse.is_some();
        if !client.out.is_empty() {
            let cut = self.random.cut(client.out.len());
            let bytes: Vec<u8> = client.out.drain(..cut).collect();
            if let Err(violation) = client.application.receive(&bytes, excused) {
                self.violation.get_or_insert(violation);
                return;
            }
        } else if client.gone {
            if let Err(violation) = client.application.closed(excused) {
                self.violation.get_or_insert(violation);
            }
            return;
        }
        let act = client.application.act();
        let has_sent = !client.application.outbox.is_empty();
        match act {
            Act::Send => {}
            Act::Cancel => {
                // It comes over a connection of its own, to any loop.
                let thread = client.thread;
                self.tell(thread, Letter::Cancel { client: key });
            }
            Act::HangUp => client.hanging_up = true,
        }
        if has_sent || act == Act::HangUp {
            self.soon(Event::FromClient(key));
        }
        let client = &self.clients[key];
        if !client.application.is_over() || (client.gone && !client.out.is_empty()) {
            // Some read slowly.
            let pause = self.random.pick(&[100, 300, 1_000, 1_000, 4_000]);
            self.at(Duration::from_micros(pause), Event::Application(key));
        }
    }

    pub(super) fn read_client(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        if client.gone {
            return;
        }
        let outbox = &mut client.application.outbox;
        if outbox.is_empty() {
            if client.hanging_up {
                self.note(|| format!("client {key} hangs up"));
                self.client_gone(key);
            }
            return;
        }
        if client.kept.len() > CHOKED {
            return self.soon(Event::FromClient(key));
        }
        let cut = self.random.cut(outbox.len());
        let bytes: Vec<u8> = outbox.drain(..cut).collect();
        let more = !outbox.is_empty() || client.hanging_up;
        client.kept.extend_from_slice(&bytes);
        self.note(|| format!("client {key} sent {}", shown(&bytes)));
        self.session_input(key);
        if more {
            self.soon(Event::FromClient(key));
        }
    }

    pub(super) fn feed_server(&mut self, key: ServerKey) {
        self.watch.server_woke(key);
        if !self.is_alive(key) {
            return;
        }
        let server = &mut self.servers[key];
        // PostgreSQL reads nothing while nobody reads what it sends.
        if server.backend.sent.len() > CHOKED || server.out.is_empty() {
            return;
        }
        let cut = self.random.cut(server.out.len());
        let bytes: Vec<u8> = server.out.drain(..cut).collect();
        let client = server.client;
        server.backend.receive(&bytes);
        self.note(|| format!("server {key} got {}", shown(&bytes)));
        self.soon(Event::Server(key));
        if let Some(client) = client {
            // It may have been choked.
            self.session_input(client);
        }
    }

    pub(super) fn server(&mut self, key: ServerKey) {
        if !self.is_alive(key) || self.servers[key].lost {
            return;
        }
        let server = &mut self.servers[key];
        if server.backend.sent.len() > CHOKED {
            return self.soon(Event::Server(key));
        }
        let was_sleeping = server.backend.is_sleeping();
        let stepped = server.backend.step();
        let sleeps = server.backend.is_sleeping() && !was_sleeping;
        self.check_server(key);
        if sleeps {
            let longest = self.random.pick(&[1_000, 20_000]);
            let takes = Duration::from_micros(self.random.between(500, longest) as u64);
            self.at(takes, Event::Wake(key));
        }
        if stepped {
            // Mostly quick, sometimes slow.
            let next = if self.random.percent(70) {
                Duration::from_micros(2)
            } else {
                self.random.delay()
            };
            self.at(next, Event::Server(key));
        }
        if self.servers[key].backend.is_closed() {
            self.servers[key].lost = true;
        }
        if !self.servers[key].backend.sent.is_empty() || self.servers[key].lost {
            self.wake_server(key);
        }
    }

    pub(super) fn read_server(&mut self, key: ServerKey) {
        let server = &mut self.servers[key];
        if server.place != Place::Here {
            return;
        }
        if let Some(client) = server.client
            && self.clients[client].out.len() > CHOKED
        {
            return self.soon(Event::FromServer(key));
        }
        let sent = &mut server.backend.sent;
        if sent.is_empty() {
            if server.lost {
                self.server_lost(key);
            }
            return;
        }
        let cut = self.random.cut(sent.len());
        let bytes: Vec<u8> = sent.drain(..cut).collect();
        let more = !sent.is_empty() || server.lost;
        server.kept.extend_from_slice(&bytes);
        self.note(|| format!("server {key} sent {}", shown(&bytes)));
        self.server_input(key);
        if more {
            self.wake_server(key);
        }
    }

    pub(super) fn cancel_arrives(&mut self, key: ServerKey, asked_by: ClientKey) {
        if self.is_alive(key) {
            self.check_cancel(key, asked_by);
        }
        if self.is_alive(key) && !self.servers[key].lost {
            self.servers[key].backend.cancel();
            self.soon(Event::Server(key));
            self.wake_server(key);
        }
        self.soon(Event::CancelEnded(key));
    }
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
    format!("{} bytes: {}", bytes.len(), text.escape_debug())
}
