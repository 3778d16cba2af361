//! What the services that hold a log give it and may change while it runs.

pub use foghorn_bus::clock::Clock;
pub use foghorn_bus::policies::SharedPolicies;
