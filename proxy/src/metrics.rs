//! Every series of both proxies. Nowhere else is one of theirs named;
//! the proxies' parts of docs/metrics.md are generated from these tables.

pub mod balancer;
pub mod pooler;

pub use web::metrics::Page;

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use web::metrics::{faults, markdown, with_part};

    use super::{balancer, pooler};

    #[test]
    fn names_follow_the_rules() {
        assert_eq!(faults("poolkeeper_pooler_", pooler::ALL), [""; 0]);
        assert_eq!(faults("poolkeeper_balancer_", balancer::ALL), [""; 0]);
    }

    #[test]
    fn reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = fs::read_to_string(path).unwrap();
        let pooler = markdown(
            "Pooler",
            "Served on `http_port`, if set (by `operator local` from 9127 on), at `/metrics`.",
            pooler::ALL,
        );
        let balancer = markdown(
            "Balancer",
            "Served on `http.bind` (8404) at `/metrics`.",
            balancer::ALL,
        );
        let current = with_part(&with_part(&page, &pooler), &balancer);
        if env::var_os("POOLKEEPER_UPDATE").is_some() {
            fs::write(path, &current).unwrap();
        } else {
            assert!(
                page == current,
                "docs/metrics.md is not what proxy/src/metrics says: run `cargo xtask generate`"
            );
        }
    }
}
