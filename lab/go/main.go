// Speaks TLS to a broker with franz-go: writes a record and reads it back.
//
//	lab-go BOOTSTRAP TOPIC CA [CERTIFICATE_AND_KEY]
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return errors.New("lab-go BOOTSTRAP TOPIC CA [CERTIFICATE_AND_KEY]")
	}
	trusted, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(trusted) {
		return fmt.Errorf("no certificate in %s", args[2])
	}
	if len(args) > 3 {
		own, err := tls.LoadX509KeyPair(args[3], args[3])
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{own}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(args[0]), kgo.DialTLSConfig(config), kgo.ConsumeTopics(args[1]),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AllowAutoTopicCreation(), kgo.RetryTimeout(20*time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	patience, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	// With what is wrong at once, if anything is.
	if err := client.Ping(patience); err != nil {
		return err
	}
	sent := client.ProduceSync(patience, &kgo.Record{Topic: args[1], Value: []byte("from go")})
	if err := sent.FirstErr(); err != nil {
		return err
	}
	for patience.Err() == nil {
		fetches := client.PollFetches(patience)
		for _, record := range fetches.Records() {
			fmt.Println(string(record.Value))
			if string(record.Value) == "from go" {
				return nil
			}
		}
	}
	return errors.New("the record did not come back")
}
