//! Other poolers: SHOW PEERS.

use super::super::table::{Column, Row, columns, row};
use crate::pooler::view::View;

pub(super) const PEERS: &[Column] =
    columns![Int4: "peer_id"; Text: "host"; Int4: "port", "pool_size"];

/// A row per entry of [peers], or per pooler found by name, this one among them.
/// `pool_size` limits nothing here.
pub(super) fn peers(view: &View) -> Vec<Row> {
    let config = &view.live.config;
    let default_size = config.global.default_pool_size;
    let listed = config.peers.iter().map(|(id, peer)| {
        let size = peer.pool_size.unwrap_or(default_size);
        row![*id, peer.host.clone(), peer.port, size]
    });
    let found = view.peers.found.all().iter().map(|peer| {
        let address = peer.address;
        row![
            peer.id,
            address.ip().to_string(),
            address.port(),
            default_size
        ]
    });
    listed.chain(found).collect()
}
