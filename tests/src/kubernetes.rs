//! The real Kubernetes that tests, and people, run against.
//!
//! [`ControlPlane`] is the API alone, in seconds and for anybody: custom
//! resources, CEL rules, apply, status, events, watches. [`Program`] says where
//! the programs are, and builds those that are missing.

mod control_plane;
mod kubeconfig;
mod programs;

pub use control_plane::{ControlPlane, ControlPlaneBuilder, helm, kubectl};
pub use programs::{Program, cache};
