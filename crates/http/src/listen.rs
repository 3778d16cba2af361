//! Listening sockets, in two steps: an address is reserved when the process starts, so that one that is
//! taken is told at once; connections are accepted when there is somebody to answer them. Until then they
//! are refused, and whoever asked (a proxy, a load balancer, a client with several addresses) goes on to
//! another replica instead of waiting for this one.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// An address that nobody else can listen on, and that refuses connections.
#[derive(Debug)]
pub struct Reserved {
    service: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

/// Reserves `address` for a service, which is the name that errors and the log call it by.
pub fn reserve(service: &'static str, address: SocketAddr) -> io::Result<Reserved> {
    // Where others may bind too before they listen, two processes that wait would both have the address.
    // That is only for what is left of an earlier process's connections.
    let bound = match bind(address, false) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind(address, true),
        bound => bound,
    };
    let socket = bound.map_err(|error| refused(service, address, &error))?;
    Ok(Reserved { service, address, socket })
}

impl Reserved {
    /// Accepts connections from now on, and says in the log where (`listening`, with the service's name):
    /// with port 0 that is how one knows.
    pub fn listen(self) -> io::Result<TcpListener> {
        let Reserved { service, address, socket } = self;
        // Accepted connections have it from their listener: what is left of them must not keep the next
        // process from this address.
        let listener = socket.set_reuseaddr(true).and_then(|()| socket.listen(BACKLOG));
        let listener = listener.map_err(|error| refused(service, address, &error))?;
        tracing::info!(service, address = %listener.local_addr()?, "listening");
        Ok(listener)
    }
}

fn bind(address: SocketAddr, reuse: bool) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(reuse)?;
    socket.bind(address)?;
    Ok(socket)
}

fn refused(service: &str, address: SocketAddr, error: &io::Error) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there, choose another port or stop it",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges",
        _ => "",
    };
    io::Error::new(error.kind(), format!("can't listen on {address} for {service}: {error}{hint}"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpStream;

    use super::*;

    fn free() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[tokio::test]
    async fn a_reserved_address_refuses_connections_and_nobody_else_gets_it() {
        let reserved = reserve("http", free()).unwrap();
        let address = reserved.socket.local_addr().unwrap();
        assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let taken = reserve("grpc", address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let words = taken.to_string();
        assert!(words.contains(&address.to_string()) && words.contains("for grpc"), "{words}");
        let listener = reserved.listen().unwrap();
        TcpStream::connect(address).await.unwrap();
        assert_eq!(reserve("grpc", address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        reserve("grpc", address).unwrap();
    }

    #[tokio::test]
    async fn what_is_left_of_earlier_connections_keeps_nobody_from_an_address() {
        let listener = reserve("http", free()).unwrap().listen().unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        // Who closes first waits (TIME_WAIT) with the address.
        drop((accepted, listener));
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        drop(client);
        let again = reserve("http", address).unwrap().listen().unwrap();
        assert_eq!(again.local_addr().unwrap(), address);
    }
}
