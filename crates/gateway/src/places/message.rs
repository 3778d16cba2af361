//! What gateways ask each other about users' streams, as JSON.

use serde::{Deserialize, Serialize};

use foghorn_bus::gateways::GatewayName;

use super::roll::User;
use crate::client_id::ClientId;

/// What one asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Ask {
    /// Whether a stream of this user, asked for then, may begin.
    Admit { user: Hex, stream: Hex, since: i64 },
    /// These are over.
    Ended { streams: Vec<(Hex, Hex)> },
    /// These are to end.
    Oust { streams: Vec<Hex> },
    /// Whether the one who is asked has the same streams of the one who asks, which knows gateways of this view.
    Compare { gateway: Hex, view: u64, digests: Vec<u64> },
    /// Where it hasn't: what is in these parts. With the last of them the view.
    Replace { gateway: Hex, parts: Vec<u8>, streams: Vec<(Hex, Hex, i64)>, view: Option<u64> },
}

/// What is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    /// To `Admit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admitted: Option<bool>,
    /// To `Compare`: in which parts they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) differing: Option<Vec<u8>>,
}

/// A user, a stream or a gateway: a number, in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Hex(u128);

impl Hex {
    pub(super) fn user(user: User) -> Self {
        Hex(user)
    }

    pub(super) fn stream(stream: ClientId) -> Self {
        Hex(stream.get())
    }

    pub(super) fn gateway(name: GatewayName) -> Self {
        Hex(name.get().into())
    }

    pub(super) fn to_user(self) -> User {
        self.0
    }

    pub(super) fn to_stream(self) -> ClientId {
        ClientId::from(self.0)
    }

    pub(super) fn to_gateway(self) -> GatewayName {
        GatewayName::new(u64::try_from(self.0).unwrap_or(0))
    }
}

impl TryFrom<String> for Hex {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Hex)
    }
}

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        format!("{:x}", hex.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_as_it_is_written() {
        let (user, stream) = (Hex::user(u128::MAX), Hex::stream(ClientId::from(7 << 90)));
        for ask in [
            Ask::Admit { user, stream, since: -1 },
            Ask::Ended { streams: vec![(user, stream)] },
            Ask::Oust { streams: vec![stream] },
            Ask::Compare { gateway: Hex(9), view: u64::MAX, digests: vec![u64::MAX, 0] },
            Ask::Replace {
                gateway: Hex(9),
                parts: vec![0, 255],
                streams: vec![(user, stream, 1)],
                view: None,
            },
        ] {
            let text = serde_json::to_vec(&ask).unwrap();
            assert_eq!(serde_json::from_slice::<Ask>(&text).unwrap(), ask);
        }
        assert!(serde_json::from_str::<Ask>(r#"{"ask":"oust","streams":["x"]}"#).is_err());
        assert_eq!((user.to_user(), stream.to_stream().get()), (u128::MAX, 7 << 90));
    }
}
