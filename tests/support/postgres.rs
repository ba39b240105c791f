//! Databases of the server that `scripts/test` starts.

use sqlx::Connection;

/// A database of one test alone; its URL.
pub async fn database() -> String {
    let server = std::env::var("NIGHTSHIFT_TEST_POSTGRES").expect("scripts/test starts a server and says where it is");
    let name = format!("c_{}", uuid::Uuid::new_v4().simple());
    let mut connection = sqlx::PgConnection::connect(&server).await.expect("the server of scripts/test");
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.expect("a database");
    server.replacen("/postgres?", &format!("/{name}?"), 1)
}
