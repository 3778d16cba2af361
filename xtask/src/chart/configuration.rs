//! Runs every rendered configuration through the product's own check, laid out as the pod would have it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::references::find;
use super::render::{self, Object, containers, list};
use crate::command;
use crate::tools::ChartTools;
use crate::workspace::root;

/// Where the chart mounts what is ours.
const MOUNTED: &str = "/etc/foghorn/";
/// What begins a part of a configuration whose secret comes as a variable: where some containers have it, all with the
/// part do.
const WITH_SECRETS: [(&str, &str); 2] = [
    ("webhook = {", "FOGHORN_AUTH_WEBHOOK_SECRET"),
    ("[telemetry.traces]", "FOGHORN_TELEMETRY_TRACES_HEADERS"),
];

/// What a service is told its database by: without, it would ask one of its own machine, or none.
const DATABASES: [(&str, &str); 3] = [
    ("eventlog", "FOGHORN_POSTGRES_URL"),
    ("notifications", "FOGHORN_POSTGRES_URL"),
    ("outbox", "FOGHORN_OUTBOX_POSTGRES"),
];

/// Checks configurations with the product's binary, and a certificate and a key for wherever one is wanted.
pub(super) struct Checker {
    binary: PathBuf,
    /// Has `tls.crt`, `tls.key`, `public.pem`, the key's other half, and `secret`, a text.
    secrets: TempDir,
}

impl Checker {
    pub(super) fn new(tools: &ChartTools, binary: PathBuf) -> Result<Self> {
        let secrets = tempfile::tempdir().context("creating a temporary folder for keys")?;
        let mut make = Command::new("sh");
        make.arg(root().join("deploy/tls/make-certificate.sh")).arg(secrets.path()).arg("foghorn.test");
        command::output(&mut make, Duration::from_secs(30))?;
        let mut public = tools.openssl();
        public.args(["x509", "-pubkey", "-noout", "-in"]).arg(secrets.path().join("tls.crt"));
        let public = command::output(&mut public, Duration::from_secs(30))?;
        std::fs::write(secrets.path().join("public.pem"), public.stdout)?;
        std::fs::write(secrets.path().join("secret"), "0123456789abcdef0123456789abcdef")?;
        Ok(Self { binary, secrets })
    }

    /// Every container that runs the product.
    pub(super) fn check(&self, objects: &[Object]) -> Result<()> {
        for object in objects {
            let Some(pod) = object.pod() else { continue };
            for container in containers(pod).filter(|container| is_ours(container)) {
                let checked = self.container(pod, container, objects);
                checked.with_context(|| format!("{}, container {}", object.name(), container["name"]))?;
            }
        }
        Ok(())
    }

    fn container(&self, pod: &Value, container: &Value, objects: &[Object]) -> Result<()> {
        let place = tempfile::tempdir().context("creating a temporary folder for a pod's files")?;
        let moved = format!("{}{MOUNTED}", place.path().display());
        for mount in list(container, "/volumeMounts") {
            self.mount(pod, mount, objects, place.path(), &moved)?;
        }
        let arguments: Vec<String> = list(container, "/args")
            .iter()
            .map(|argument| argument.as_str().unwrap_or_default().replace(MOUNTED, &moved))
            .collect();

        // Whether the command line is one that the product takes.
        let mut help = self.product(container, &moved);
        help.args(&arguments).arg("--help");
        command::output(&mut help, render::LIMIT)?;

        for (service, variable) in DATABASES {
            let lacks = arguments.first().is_some_and(|first| first == service) && !has(container, variable);
            ensure!(!lacks, "no {variable}");
        }
        let configured = arguments.iter().skip_while(|argument| *argument != "--config").nth(1);
        let mut check = self.product(container, &moved);
        check.args(["config", "check"]);
        if let Some(file) = configured {
            let text = std::fs::read_to_string(file).with_context(|| format!("{file} is not mounted"))?;
            for (part, variable) in WITH_SECRETS {
                let mut all = objects.iter().filter_map(Object::pod).flat_map(containers);
                let lacks = text.contains(part) && !has(container, variable);
                ensure!(!lacks || !all.any(|other| has(other, variable)), "no {variable} beside {part}");
            }
            // What is left out is listened to on loopback alone, where no probe and no client comes.
            for port in list(container, "/ports") {
                let (name, number) = (
                    port["name"].as_str().unwrap_or_default(),
                    port["containerPort"].as_u64().unwrap_or_default(),
                );
                let listens = text.lines().any(|line| {
                    line.strip_prefix(name).is_some_and(|rest| {
                        rest.starts_with(" = ") && rest.ends_with(&format!(":{number}\""))
                    })
                });
                ensure!(listens, "the port {name} is {number}, and the configuration doesn't listen to that");
            }
            check.args(["--config", file]);
        }
        command::output(&mut check, render::LIMIT).map(drop)
    }

    /// The product with the variables that the container would have.
    fn product(&self, container: &Value, moved: &str) -> Command {
        let mut product = Command::new(&self.binary);
        product.env_clear();
        for variable in list(container, "/env") {
            let name = variable["name"].as_str().unwrap_or_default();
            let value = match variable["value"].as_str() {
                Some(value) => value.replace(MOUNTED, moved),
                None if DATABASES.iter().any(|(_, variable)| name == *variable) => {
                    "postgres://user:secret@db:5432/foghorn".to_owned()
                }
                None if name == "FOGHORN_TELEMETRY_TRACES_HEADERS" => "authorization=x".to_owned(),
                // Base64 of any 32 bytes.
                None if name == "FOGHORN_AUTH_WEBHOOK_SECRET" => format!("whsec_{}=", "A".repeat(43)),
                None => "from-a-secret".to_owned(),
            };
            product.env(name, value);
        }
        product
    }

    /// Lays out what is mounted: ConfigMaps as they are rendered, Secrets with something that will do.
    fn mount(&self, pod: &Value, mount: &Value, objects: &[Object], place: &Path, moved: &str) -> Result<()> {
        let volumes = list(pod, "/spec/volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.with_context(|| format!("no volume {}", mount["name"]))?;
        let target = mount["mountPath"].as_str().unwrap_or_default();
        let target = place.join(target.trim_start_matches('/'));
        std::fs::create_dir_all(&target)?;
        if let Some(name) = volume["configMap"]["name"].as_str() {
            let map = find(objects, "ConfigMap", name)?;
            for (file, text) in map.value["data"].as_object().into_iter().flatten() {
                std::fs::write(target.join(file), text.as_str().unwrap_or_default().replace(MOUNTED, moved))?;
            }
        }
        let projected =
            list(volume, "/projected/sources").iter().flat_map(|source| list(source, "/secret/items"));
        for item in list(volume, "/secret/items").iter().chain(projected) {
            let (key, path) =
                (item["key"].as_str().unwrap_or_default(), item["path"].as_str().unwrap_or_default());
            let secret = match key {
                "ca.crt" | "tls.crt" => "tls.crt",
                "tls.key" => "tls.key",
                pem if pem.ends_with(".pem") => "public.pem",
                _ => "secret",
            };
            std::fs::copy(self.secrets.path().join(secret), target.join(path))?;
        }
        Ok(())
    }
}

fn has(container: &Value, variable: &str) -> bool {
    list(container, "/env").iter().any(|one| one["name"] == variable)
}

/// Whether a container runs the product's image: by its last name, as the rest is up to who installs it.
fn is_ours(container: &Value) -> bool {
    let image = container["image"].as_str().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(['@', ':']).next() == Some("foghorn")
}
