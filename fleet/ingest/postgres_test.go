//go:build system

package ingest

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/postgres"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/test/deps"
)

// TestOnPostgres is this package's tests over again, with each store in a schema of its own in a PostgreSQL database.
func TestOnPostgres(t *testing.T) {
	p := deps.Postgres(t, "fsync = off")
	c, err := pgx.Connect(context.Background(), p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	schemas := map[string]string{}
	elsewhere = func(name string, limits store.Limits, letters int) (store.Store, error) {
		schema := schemas[name]
		if schema == "" {
			schema = fmt.Sprint("s", len(schemas))
			schemas[name] = schema
			if _, err := c.Exec(context.Background(), "CREATE SCHEMA "+schema); err != nil {
				return nil, err
			}
		}
		return postgres.Open(context.Background(), p.URL("postgres")+"?search_path="+schema, postgres.Options{Rand: bytes.NewReader(bytes.Repeat([]byte{0xAB}, 16)), Connections: 2, Limits: limits, Letters: letters})
	}
	defer func() { elsewhere = nil }()
	for name, test := range map[string]func(*testing.T){
		"ExactValuesOfEveryKind":                     TestExactValuesOfEveryKind,
		"DuplicatesAndOrderMakeNoDifference":         TestDuplicatesAndOrderMakeNoDifference,
		"ParkedUntilTheCatalogueComes":               TestParkedUntilTheCatalogueComes,
		"CatalogueInManyPartsOutOfOrderOverRestarts": TestCatalogueInManyPartsOutOfOrderOverRestarts,
		"PlainAndColumnsGiveTheSameRows":             TestPlainAndColumnsGiveTheSameRows,
		"PlainWithoutCatalogueStandsUnderItsNames":   TestPlainWithoutCatalogueStandsUnderItsNames,
		"ConflictIsKeptAsideAndRejected":             TestConflictIsKeptAsideAndRejected,
		"ForeignNewerAndBroken":                      TestForeignNewerAndBroken,
		"GapsLossesAndEpochs":                        TestGapsLossesAndEpochs,
		"ThinnedCopyOfWhatArrived":                   TestThinnedCopyOfWhatArrived,
		"ReceiptNumbersAscendOverRestarts":           TestReceiptNumbersAscendOverRestarts,
		"ReceiptRangesAreRunsWithinOnePayload":       TestReceiptRangesAreRunsWithinOnePayload,
		"ProbeIsAnsweredAndLeavesNothing":            TestProbeIsAnsweredAndLeavesNothing,
		"StatusAndResult":                            TestStatusAndResult,
		"OriginalBeatsItsCopy":                       TestOriginalBeatsItsCopy,
		"SamplesWaitForTheirTime":                    TestSamplesWaitForTheirTime,
		"ReplayedLogStaysInItsYear":                  TestReplayedLogStaysInItsYear,
		"RetimingInStepsIsRetimingAtOnce":            TestRetimingInStepsIsRetimingAtOnce,
		"ClockRecordsThatCannotBe":                   TestClockRecordsThatCannotBe,
		"RetimingIsBoundedAndGoesOn":                 TestRetimingIsBoundedAndGoesOn,
		"RunDatesWhatIsLeft":                         TestRunDatesWhatIsLeft,
		"BoundsDateABootThatNobodyVouchedFor":        TestBoundsDateABootThatNobodyVouchedFor,
		"Wanted":                                     TestWanted,
		"HostileClients":                             TestHostileClients,
		"DevicesWithoutEnd":                          TestDevicesWithoutEnd,
		"ParkedAtTheVehicleAndTakenLater":            TestParkedAtTheVehicleAndTakenLater,
		"BombOfTexts":                                TestBombOfTexts,
		"LateBatchesAreStoredAlike":                  TestLateBatchesAreStoredAlike,
		"RateOfSamples":                              TestRateOfSamples,
		"ReceiptsAreBounded":                         TestReceiptsAreBounded,
		"ClocksOfOneDeviceDoNotStarveOthers":         TestClocksOfOneDeviceDoNotStarveOthers,
	} {
		t.Run(name, test)
	}
}
