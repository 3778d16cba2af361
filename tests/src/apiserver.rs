//! A real API server of Kubernetes with its etcd. No kubelet and no controllers: what is written stays as it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, Program};
use crate::wait::until;
use crate::{PATIENCE, env};

/// The token of whoever may do everything.
const ADMIN: &str = "admin-of-this-test";
/// How long `helm` or `kubectl` may take.
const COMMAND_SECONDS: &str = "60";

/// A running one.
#[derive(Debug)]
pub struct KubeApiServer {
    port: Port,
    folder: TempDir,
    _server: Process,
    _etcd: Process,
}

impl KubeApiServer {
    /// Starts both, and waits until they are ready.
    ///
    /// # Panics
    ///
    /// When they don't get so far.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (port, client, peer) = (Port::lease(), Port::lease(), Port::lease());
        let (client, peer) = (format!("http://{}", client.address()), format!("http://{}", peer.address()));
        let etcd = Program::new(env::etcd()).arg("--data-dir").arg(folder.path().join("etcd")).args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &format!("default={peer}"),
            "--unsafe-no-fsync",
        ]);
        let etcd = Process::spawn(etcd);
        let file = |name: &str| folder.path().join(name);
        let (tokens, private, public) = (file("tokens.csv"), file("accounts.key"), file("accounts.pub"));
        std::fs::write(&tokens, format!("{ADMIN},admin,1,\"system:masters\"\n")).expect("the folder is ours");
        let signing = rcgen::KeyPair::generate().expect("a key can be made");
        std::fs::write(&private, signing.serialize_pem()).expect("the folder is ours");
        std::fs::write(&public, signing.public_key_pem()).expect("the folder is ours");
        let server = Program::new(env::kube_apiserver())
            .args(["--etcd-servers", &client, "--bind-address", "127.0.0.1"])
            .args(["--secure-port", &port.number().to_string(), "--service-cluster-ip-range", "10.96.0.0/16"])
            .args([
                "--authorization-mode",
                "RBAC",
                "--service-account-issuer",
                "https://kubernetes.default.svc",
            ])
            .arg("--service-account-signing-key-file")
            .arg(&private)
            .arg("--service-account-key-file")
            .arg(&public)
            .arg("--token-auth-file")
            .arg(&tokens)
            .arg("--cert-dir")
            .arg(folder.path().join("certificates"))
            // It waits for a controller that isn't there.
            .args(["--disable-admission-plugins", "ServiceAccount"]);
        let server = Process::spawn(server);
        let server = KubeApiServer { port, folder, _server: server, _etcd: etcd };
        server.write_kubeconfig("admin", ADMIN);
        until("an API server that is ready", 3 * PATIENCE, async || {
            let ready = server.kubectl(&["get", "--raw", "/readyz"], "");
            ready.status.success().then_some(())
        })
        .await;
        server
    }

    /// A configuration for whoever has this token; what `KUBECONFIG` is to be.
    ///
    /// # Panics
    ///
    /// When it can't be written.
    pub fn write_kubeconfig(&self, user: &str, token: &str) -> String {
        let path = self.kubeconfig(user);
        // It has made its own certificate, and is its own authority.
        let authority = self.folder.path().join("certificates/apiserver.crt");
        let server = format!("https://{}", self.port.address());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority": authority } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user, "namespace": "push" } }],
            "users": [{ "name": user, "user": { "token": token } }],
        });
        std::fs::write(&path, config.to_string()).expect("the folder is ours");
        path.display().to_string()
    }

    /// `kubectl`, as an administrator, with something to read.
    ///
    /// # Panics
    ///
    /// When it can't be run.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let file = self.folder.path().join("input");
        std::fs::write(&file, input).expect("the folder is ours");
        let input = std::fs::File::open(&file).expect("it was written");
        self.command(&env::kubectl(), arguments).stdin(input).output().expect("it can be run")
    }

    /// `helm`, likewise.
    ///
    /// # Panics
    ///
    /// When it can't be run.
    #[must_use]
    pub fn helm(&self, arguments: &[&str]) -> Output {
        self.command(&env::helm(), arguments).output().expect("it can be run")
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(COMMAND_SECONDS).arg(program).args(arguments);
        command.env("KUBECONFIG", self.kubeconfig("admin")).env("HOME", self.folder.path());
        command
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("{user}.kubeconfig"))
    }
}
