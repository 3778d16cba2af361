//! What a stream is called, as `connected` tells its client.

use std::fmt;

use foghorn_bus::gateways::GatewayName;

/// 128 random bits. The first 48 are the name of the stream's gateway; the others are its own.
///
/// Two halves, as one number would have every stream take up more for its alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientId {
    high: u64,
    low: u64,
}

impl ClientId {
    /// A new one of a gateway.
    pub(crate) fn random(gateway: GatewayName) -> Self {
        let own = u64::from(rand::random::<u16>());
        ClientId { high: gateway.get() << (u64::BITS - GatewayName::BITS) | own, low: rand::random() }
    }

    /// As it is told: 32 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| plain).map(ClientId::from)
    }

    /// Whose stream it is.
    pub(crate) fn gateway(self) -> GatewayName {
        GatewayName::new(self.high >> (u64::BITS - GatewayName::BITS))
    }

    /// 64 bits that no other stream of its gateway has, in all likelihood.
    pub(crate) fn key(self) -> u64 {
        self.low
    }

    /// As a number.
    pub(crate) fn get(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

impl From<u128> for ClientId {
    fn from(number: u128) -> Self {
        let [high, low] = [number >> 64, number & u128::from(u64::MAX)];
        // Each has 64 bits.
        let half = |number: u128| u64::try_from(number).unwrap_or_default();
        ClientId { high: half(high), low: half(low) }
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.high, self.low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_its_gateway_and_is_read_as_it_is_told() {
        let gateway = GatewayName::new(0xfedc_ba98_7654);
        for _ in 0..20 {
            let id = ClientId::random(gateway);
            let text = id.to_string();
            assert!(text.len() == 32 && text.starts_with("fedcba987654"), "{text}");
            assert_eq!((ClientId::parse(&text), id.gateway()), (Some(id), gateway));
            assert_eq!(ClientId::from(id.get()), id);
        }
        for bad in ["", "7", "+fedcba9876543210fedcba987654321", "g".repeat(32).as_str()] {
            assert_eq!(ClientId::parse(bad), None, "{bad}");
        }
    }
}
