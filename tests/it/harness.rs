//! Does the harness itself do what it says?

mod browser;
mod product;
mod proxy;
mod servers;
mod web;
