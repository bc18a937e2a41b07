// minio-admin makes an account in a minio server: the admin API seals its messages, so no general HTTP client can.
//
// Usage: MINIO_ROOT_USER=… MINIO_ROOT_PASSWORD=… NEW_SECRET_KEY=… minio-admin HOST:PORT ACCESS_KEY < policy.json
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/minio/madmin-go/v3"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "minio-admin:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: minio-admin HOST:PORT ACCESS_KEY < policy.json")
	}
	endpoint, access := os.Args[1], os.Args[2]
	policy, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fmt.Errorf("cannot read the policy: %w", err)
	}
	client, err := madmin.New(endpoint, os.Getenv("MINIO_ROOT_USER"), os.Getenv("MINIO_ROOT_PASSWORD"), true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := client.AddUser(ctx, access, os.Getenv("NEW_SECRET_KEY")); err != nil {
		return fmt.Errorf("cannot make the account: %w", err)
	}
	// A policy of the account's own, by its name.
	if err := client.AddCannedPolicy(ctx, access, policy); err != nil {
		return fmt.Errorf("cannot make the policy: %w", err)
	}
	if _, err := client.AttachPolicy(ctx, madmin.PolicyAssociationReq{Policies: []string{access}, User: access}); err != nil {
		return fmt.Errorf("cannot attach the policy: %w", err)
	}
	return nil
}
