//! The gateways of standalone: one, which has nobody to ask.

use futures::FutureExt as _;

use bytes::Bytes;

use crate::Future;
use crate::gateways::{AskError, Asked, GatewayName, Gateways, Notices, Question, Questions};

/// No other gateway.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

struct Silence;

impl Gateways for Alone {
    fn ask(&self, _: GatewayName, _: Question) -> Future<'_, Result<Bytes, AskError>> {
        futures::future::ready(Err(AskError::Nobody)).boxed()
    }

    fn listen(&self, _: GatewayName) -> Future<'_, Result<Box<dyn Questions>, AskError>> {
        futures::future::ready(Ok(Box::new(Silence) as Box<dyn Questions>)).boxed()
    }

    fn tell_all(&self, _: Bytes) -> Future<'_, Result<(), AskError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn hear_all(&self) -> Future<'_, Result<Box<dyn Notices>, AskError>> {
        futures::future::ready(Ok(Box::new(Silence) as Box<dyn Notices>)).boxed()
    }
}

impl Notices for Silence {
    fn next(&mut self) -> Future<'_, Option<Bytes>> {
        futures::future::pending().boxed()
    }
}

impl Questions for Silence {
    fn next(&mut self) -> Future<'_, Option<Asked>> {
        futures::future::pending().boxed()
    }
}
