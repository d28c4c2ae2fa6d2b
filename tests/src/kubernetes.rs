//! The real Kubernetes that tests, and people, run against.
//!
//! [`ControlPlane`] is the API alone, in seconds and for anybody: custom
//! resources, CEL rules, apply, status, events, watches. [`Node`] adds a machine
//! that runs pods, for root. [`Program`] says where
//! the programs are, and builds those that are missing.

mod calls;
mod cluster_operator;
mod control_plane;
mod image;
mod isolation;
mod kubeconfig;
mod network;
mod node;
mod plan;
mod postgres_image;
mod programs;
mod settings;
mod shipped_images;

pub use calls::{helm, kubectl, shell};
pub use cluster_operator::{ClusterOperator, TierImages};
pub use control_plane::{ControlPlane, ControlPlaneBuilder};
pub use image::Image;
pub use isolation::{load, sweep};
pub use node::Node;
pub use programs::{Program, cache};
pub use shipped_images::{ShippedImage, ShippedImages};
